"""Sessions go on from their tickets, on any server with the key and the model, and on no other."""

import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.durable.tickets.keys import new_key
from elman_server.model.repository import ModelSource
from elman_server.serving.loading.loaded import LoadedModel
from tests.server.frontend.conftest import Serve, make_config
from tests.server.frontend.harness import Conversation, LocalServer, push
from tests.stepmodels import ALPHABET, leaky, save

REFUSED = grpc.StatusCode.FAILED_PRECONDITION.value[0]


async def ticket(
    server: LocalServer, text: str, *, version: str = "", session: int = 1
) -> pb.Ticket:
    """Of a session of `letters` that had this text."""
    stream = server.stream(version=version)
    pushed = push({session: text}) if text else None
    await stream.send(opens=[session], push=pushed, tickets=[session])
    await stream.until(lambda: bool(stream.tickets))
    await stream.half_close()
    await stream.read_all()
    return stream.tickets[session][-1]


async def resumed(server: LocalServer, ticket: bytes, text: str, **first: str) -> Conversation:
    stream = server.stream(**first)
    await stream.send(opens=[pb.Open(session=4, ticket=ticket)], push=push({4: text}))
    await stream.half_close()
    await stream.read_all()
    return stream


async def test_a_session_goes_on_where_its_ticket_was_issued(
    server: LocalServer, logits: Any
) -> None:
    issued = await ticket(server, "abc")
    assert (issued.session, issued.position) == (1, 3)
    stream = await resumed(server, issued.ticket, "defg")
    assert stream.opened[4].position == 3
    assert logits("abc") + stream.values(4) == logits("abcdefg")
    closed, *_ = stream.closed[4]
    assert (closed.reason, closed.position) == (pb.CLOSE_REASON_FINISHED, 7)


async def test_another_server_with_the_key_goes_on(serve: Serve, logits: Any) -> None:
    key = new_key()
    async with serve(ticket_key=(key,)) as one, serve(ticket_key=(new_key(), key)) as other:
        stream = await resumed(other, (await ticket(one, "abc")).ticket, "defg")
    assert logits("abc") + stream.values(4) == logits("abcdefg")


async def test_one_without_the_key_does_not(serve: Serve) -> None:
    async with serve() as one, serve() as other:
        stream = await resumed(other, (await ticket(one, "abc")).ticket, "d")
        closed, *_ = stream.closed[4]
        assert (closed.code, closed.reason) == (REFUSED, pb.CLOSE_REASON_TICKET_REJECTED)
        assert "key" in closed.message
        assert other.metric("elman_tickets_rejected_total", reason="unknown_key") == 1


async def test_a_ticket_before_the_first_element_is_of_the_initial_state(
    server: LocalServer, logits: Any
) -> None:
    issued = await ticket(server, "")
    assert issued.position == 0
    stream = await resumed(server, issued.ticket, "abc")
    assert stream.values(4) == logits("abc")


async def test_a_ticket_is_not_used_up(server: LocalServer, logits: Any) -> None:
    issued = (await ticket(server, "abc")).ticket
    stream = server.stream()
    branches = {number: ALPHABET[number] * number for number in range(1, 9)}
    opens = [pb.Open(session=number, ticket=issued) for number in branches]
    await stream.send(opens=opens, push=push(branches))
    await stream.half_close()
    await stream.read_all()
    for number, text in branches.items():
        assert logits("abc") + stream.values(number) == logits("abc" + text)


async def test_tickets_come_as_often_as_was_asked_for(serve: Serve, logits: Any) -> None:
    text = "".join(random.Random(3).choices(ALPHABET, k=400))
    async with serve(min_ticket_elements=5, max_chunk=8) as server:
        stream = server.stream()
        await stream.send(opens=[pb.Open(session=1, ticket_every_elements=30)])
        await stream.until(lambda: 1 in stream.opened)
        assert stream.opened[1].ticket_every_elements == 30
        await stream.send(push=push({1: text}), closes=[1])
        await stream.ended(1)
        positions = [issued.position for issued in stream.tickets[1]]
        # Never between two elements of a step.
        assert len(positions) in (11, 12, 13)
        assert all(30 <= b - a < 38 for a, b in zip([0, *positions], positions, strict=False))
        assert server.metric("elman_tickets_issued_total") == len(positions)
        nbytes = sum(len(issued.ticket) for issued in stream.tickets[1])
        assert server.metric("elman_ticket_bytes_total") == nbytes
        for issued in stream.tickets[1][::4]:
            rest = text[issued.position :]
            again = await resumed(server, issued.ticket, rest)
            assert logits(text[: issued.position]) + again.values(4) == logits(text)


async def test_but_no_more_often_than_the_server_allows(serve: Serve) -> None:
    async with serve(min_ticket_elements=50, min_ticket_seconds=2.0) as server:
        stream = server.stream()
        asked = pb.Open(session=1, ticket_every_elements=1, ticket_every_seconds=0.001)
        await stream.send(opens=[asked, pb.Open(session=2)])
        await stream.until(lambda: 2 in stream.opened)
        opened = stream.opened[1]
        assert (opened.ticket_every_elements, opened.ticket_every_seconds) == (50, 2.0)
        opened = stream.opened[2]
        assert (opened.ticket_every_elements, opened.ticket_every_seconds) == (0, 0)


async def test_a_ticket_that_was_asked_for_is_of_all_that_was_pushed(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2], push=push({1: "a" * 300, 2: "b"}), tickets=[1, 2])
    await stream.until(lambda: len(stream.tickets) == 2)
    assert {n: issued.position for n, [issued] in stream.tickets.items()} == {1: 300, 2: 1}


async def test_of_an_ended_session_no_ticket_comes_and_of_an_unknown_one_its_client_hears(
    server: LocalServer,
) -> None:
    stream = server.stream()
    await stream.send(opens=[1], closes=[1])
    await stream.ended(1)
    await stream.send(tickets=[1, 7])
    await stream.ended(7)
    assert "never opened" in stream.closed[7][0].message
    assert not stream.tickets


async def test_a_state_too_large_for_a_message_has_no_tickets(tmp_path: Path) -> None:
    path = save(*leaky(width=1000), tmp_path / "wide/1/model.onnx")
    config = make_config(max_message_bytes=5000)
    loaded = LoadedModel.load(ModelSource(name="wide", version="1", path=path), config)
    async with LocalServer([loaded], config) as server:
        stream = server.stream("wide")
        outputs = [pb.OutputRequest(name="y", form=pb.FORM_TOP, k=1)]
        asked = pb.Open(session=1, outputs=outputs, ticket_every_elements=100)
        await stream.send(opens=[asked], tickets=[1])
        await stream.until(lambda: bool(stream.tickets))
        assert stream.opened[1].ticket_every_elements == 0
        assert stream.tickets[1] == [pb.Ticket(session=1, position=0)]


@pytest.mark.parametrize("version", ["9", "10"])
async def test_get_model_tells_the_version_that_a_ticket_is_of(
    version: str, server: LocalServer
) -> None:
    issued = (await ticket(server, "abc", version=version)).ticket
    response = await server.stub.GetModel(pb.GetModelRequest(name="letters", ticket=issued))
    assert response.model.version == version


async def test_a_ticket_of_another_version_is_refused(server: LocalServer) -> None:
    issued = (await ticket(server, "abc", version="9")).ticket
    stream = await resumed(server, issued, "d", version="10")
    closed, *_ = stream.closed[4]
    assert (closed.code, closed.reason) == (REFUSED, pb.CLOSE_REASON_TICKET_REJECTED)
    assert "fingerprint" in closed.message
    assert server.metric("elman_tickets_rejected_total", reason="fingerprint") == 1


async def test_a_ticket_of_another_model_is_refused(server: LocalServer) -> None:
    issued = (await ticket(server, "abc")).ticket
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.GetModel(pb.GetModelRequest(name="numbers", ticket=issued))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "'letters'" in (caught.value.details() or "")
    assert server.metric("elman_tickets_rejected_total", reason="model") == 1


async def test_a_session_that_must_begin_on_a_certain_network_begins_on_no_other(
    server: LocalServer, logits: Any
) -> None:
    own = server.catalog.get("letters").file.fingerprint
    other = server.catalog.get("letters", "9").file.fingerprint
    stream = server.stream()
    opens = [pb.Open(session=1, fingerprint=own), pb.Open(session=2, fingerprint=other)]
    await stream.send(opens=opens, push=push({1: "abc"}))
    await stream.half_close()
    await stream.read_all()
    assert stream.values(1) == logits("abc")
    assert stream.closed[2][0].reason == pb.CLOSE_REASON_TICKET_REJECTED


async def test_tampered_tickets_are_refused_and_nobody_else_is_touched(
    server: LocalServer, logits: Any
) -> None:
    issued, rng = (await ticket(server, "abc")).ticket, random.Random(4)
    tampered = []
    for place in range(len(issued)):
        changed = bytearray(issued)
        changed[place] ^= rng.randint(1, 255)
        tampered.append(bytes(changed))
    tampered += [rng.randbytes(rng.randint(1, 2000)) for _ in range(500)]
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "ab"}))
    numbers = range(2, 2 + len(tampered))
    for start in range(0, len(tampered), 100):
        opens = [
            pb.Open(session=number, ticket=each)
            for number, each in zip(numbers, tampered, strict=True)
        ]
        await stream.send(opens=opens[start : start + 100])
    await stream.send(push=push({1: "cd"}), closes=[1])
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(1) == logits("abcd")
    assert all(
        closed.reason == pb.CLOSE_REASON_TICKET_REJECTED and closed.code == REFUSED
        for number in numbers
        for closed in stream.closed[number]
    )
    assert server.metric("elman_tickets_rejected_total") == len(tampered)


async def test_a_ticket_and_contexts_exclude_one_another(server: LocalServer) -> None:
    issued = (await ticket(server, "abc")).ticket
    stream = server.stream()
    value = pb.ContextValue(name="x", raw=b"")
    await stream.send(opens=[pb.Open(session=1, ticket=issued, contexts=[value])])
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_INVALID_REQUEST


async def test_an_expired_ticket_is_refused(serve: Serve) -> None:
    async with serve(ticket_lifetime=1.0) as server:
        issued = (await ticket(server, "abc")).ticket
        tickets: Any = server.catalog.get("letters").tickets
        now = tickets._clock
        tickets._clock = lambda: now() + 1.0
        stream = await resumed(server, issued, "d")
        assert "expired" in stream.closed[4][0].message
        assert server.metric("elman_tickets_rejected_total", reason="expired") == 1


async def test_a_ticket_that_was_asked_for_comes_though_another_is_due_before(
    server: LocalServer, logits: Any
) -> None:
    stream, text = server.stream(), "abcde" * 50
    opens = [pb.Open(session=1, ticket_every_elements=100)]
    await stream.send(opens=opens, push=push({1: text}), tickets=[1])
    await stream.until(lambda: any(t.position == 250 for t in stream.tickets.get(1, ())))
    again = await resumed(server, stream.tickets[1][-1].ticket, "xyz")
    assert logits(text) + again.values(4) == logits(text + "xyz")
    stream.call.cancel()


async def test_tickets_that_were_asked_for_one_after_the_other_all_come(
    server: LocalServer,
) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "a" * 50}), tickets=[1])
    for _ in range(3):
        await stream.send(push=push({1: "a" * 50}), tickets=[1])
    await stream.until(lambda: any(t.position == 200 for t in stream.tickets.get(1, ())))
    stream.call.cancel()


async def test_a_ticket_that_is_asked_for_comes_before_the_close(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "abc"}), tickets=[1], closes=[1])
    await stream.ended(1)
    assert [t.position for t in stream.tickets[1]] == [3]
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_FINISHED
    await stream.send(opens=[2])
    await stream.until(lambda: 2 in stream.opened)
    await stream.send(tickets=[2])
    await stream.send(closes=[2])
    await stream.ended(2)
    assert [t.position for t in stream.tickets[2]] == [0]


async def test_a_session_counts_as_resumed_if_it_was_opened(serve: Serve) -> None:
    async with serve(max_sessions=1, ticket_key=(new_key(),)) as server:
        issued = await ticket(server, "abc")
        stream = server.stream()
        opens = [pb.Open(session=n, ticket=issued.ticket) for n in (1, 2, 3)]
        await stream.send(opens=opens)
        await stream.ended(2, 3)
        assert server.metric("elman_sessions_resumed_total") == 1
        stream.call.cancel()


async def test_a_ticket_finds_its_version_though_none_is_current(server: LocalServer) -> None:
    issued = await ticket(server, "abc", version="9")
    server.catalog.update(current=(), expected=())
    request = pb.GetModelRequest(name="letters", ticket=issued.ticket)
    assert (await server.stub.GetModel(request)).model.version == "9"
    with pytest.raises(grpc.aio.AioRpcError, match="no longer served"):
        await server.stub.GetModel(pb.GetModelRequest(name="letters"))
