"""Named sessions on the wire: servers that share a store have each of them once, and go on with
it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Claim
from elman_server.durable.tickets.keys import new_key
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.naming import key
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import Conversation, LocalServer, push
from tests.server.frontend.test_hand_over import MOVED

Start = Callable[..., Any]
FAST = {"session_lease": 0.6, "checkpoint_interval": 0.05}


@pytest.fixture
async def start(serve: Serve, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts servers that share a store and a key."""
    shared = {"state_store": f"file:{tmp_path}/store", "ticket_key": (new_key(),), **FAST}
    async with AsyncExitStack() as stack:

        async def start(**config: Any) -> LocalServer:
            return await stack.enter_async_context(serve(**{**shared, **config}))

        yield start


def named(number: int, name: str = "bob", **fields: Any) -> pb.Open:
    return pb.Open(session=number, name=name, **fields)


async def opened(server: LocalServer, number: int = 1, **fields: Any) -> Conversation:
    """A conversation whose named session is open."""
    stream = server.stream()
    await stream.send(opens=[named(number, **fields)])
    await stream.until(lambda: number in stream.opened)
    return stream


async def left(stream: Conversation) -> None:
    """Its client has gone."""
    stream.call.cancel()
    await stream.server.until(lambda: not stream.server.admission.sessions)
    assert stream.server.lease_keeper is not None
    lease_keeper = stream.server.lease_keeper
    await stream.server.until(lambda: not lease_keeper._checkpoint_writer.ended)


async def test_a_named_session_goes_on_on_another_server(start: Start, logits: Any) -> None:
    one, two = await start(), await start()
    stream = await opened(one)
    assert stream.opened[1].position == 0
    await stream.push(1, "hello")
    await stream.answered(1, 5)
    await stream.send(closes=[1])
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_FINISHED
    again = await opened(two)
    assert again.opened[1].position == 5
    await again.push(1, " world")
    await again.answered(1, 6)
    assert stream.values(1) + again.values(1) == logits("hello world")
    assert two.metric("elman_sessions_resumed_total") == 1
    assert two.metric("elman_named_sessions") == 1


async def test_names_of_models_and_of_sessions_are_apart(start: Start, logits: Any) -> None:
    server = await start()
    stream = await opened(server, 1)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    other = server.stream("numbers")
    await other.send(opens=[named(1)])
    await other.until(lambda: 1 in other.opened)
    await stream.send(opens=[named(2, name="alice"), pb.Open(session=3)])
    await stream.until(lambda: {2, 3} <= stream.opened.keys())
    assert other.opened[1].position == stream.opened[2].position == 0
    assert server.metric("elman_named_sessions") == 3
    other.call.cancel()


async def test_what_is_pushed_before_a_session_is_opened_waits(start: Start, logits: Any) -> None:
    server = await start()
    stream = server.stream()
    await stream.send(opens=[named(1)], push=push({1: "abc"}), closes=[1])
    await stream.ended(1)
    assert stream.values(1) == logits("abc")
    again = server.stream()
    await again.send(opens=[named(1)], push=push({1: "de"}), tickets=[1])
    await again.until(lambda: any(t.position == 5 for t in again.tickets.get(1, ())))
    assert again.opened[1].position == 3
    assert logits("abc") + again.values(1) == logits("abcde")


async def test_a_client_that_goes_leaves_what_was_answered(start: Start, logits: Any) -> None:
    one, two = await start(), await start()
    stream = await opened(one)
    await stream.push(1, "hello")
    await stream.answered(1, 5)
    await left(stream)
    again = await opened(two)
    assert again.opened[1].position == 5
    await again.push(1, "s")
    await again.answered(1, 1)
    assert stream.values(1) + again.values(1) == logits("hellos")


async def test_a_client_that_goes_in_the_middle_leaves_a_state_between_two_elements(
    start: Start, logits: Any
) -> None:
    server, text = await start(window=100_000), "abcdefgh" * 5000
    stream = await opened(server)
    await stream.push(1, text)
    await stream.answered(1, 100)
    await left(stream)
    again = await opened(server)
    position = again.opened[1].position
    assert 100 <= position < len(text)
    await again.push(1, "xyz")
    await again.answered(1, 3)
    assert logits(text[:position]) + again.values(1) == logits(text[:position] + "xyz")


async def test_who_opens_it_last_has_it(start: Start, logits: Any) -> None:
    one, two = await start(), await start()
    first = await opened(one)
    await first.push(1, "abc")
    await first.answered(1, 3)
    second = await opened(two)
    assert second.opened[1].position == 3
    await first.ended(1)
    [closed] = first.closed[1]
    assert closed.reason == pb.CLOSE_REASON_TAKEN_OVER
    assert closed.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "another client" in closed.message
    third = await opened(two)
    await second.ended(1)
    assert second.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    await third.push(1, "d")
    await third.answered(1, 1)
    assert logits("abc") + third.values(1) == logits("abcd")
    assert one.metric("elman_sessions_closed_total", reason="taken_over") == 1


async def test_the_same_client_has_it_back_at_once_wherever_it_comes(
    start: Start, logits: Any
) -> None:
    """As when a connection is half open: the server it had still believes that it has it."""
    one, two = await start(session_lease=30.0), await start(session_lease=30.0)
    first = await opened(one)
    await first.push(1, "abc")
    await first.answered(1, 3)
    [ticket] = first.tickets[1]
    assert ticket.position == 0
    for server in (two, two, one):
        again = await opened(server, ticket=ticket.ticket)
        assert again.opened[1].position == 0
        await again.push(1, "abc")
        await again.answered(1, 3)
        assert again.values(1) == logits("abc")
        ticket = again.tickets[1][0]


async def test_a_server_that_was_followed_ends_its_session_and_saves_nothing(
    start: Start, logits: Any
) -> None:
    one, two = await start(), await start()
    first = await opened(one)
    ticket = first.tickets[1][0].ticket
    again = await opened(two, ticket=ticket)
    await again.push(1, "abc")
    await again.answered(1, 3)
    await first.ended(1)
    assert first.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    await left(again)
    assert (await opened(one)).opened[1].position == 3


async def test_a_ticket_is_of_no_use_once_another_client_had_the_session(start: Start) -> None:
    server = await start()
    first = await opened(server)
    ticket = first.tickets[1][0].ticket
    second = await opened(server)
    await first.ended(1)
    await left(second)
    stream = server.stream()
    await stream.send(opens=[named(1, ticket=ticket), pb.Open(session=2, ticket=ticket)])
    await stream.ended(1)
    await stream.until(lambda: 2 in stream.opened)  # a branch harms nobody
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert stream.closed[1][0].code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert server.metric("elman_tickets_rejected_total", reason="fenced") == 1


@pytest.mark.parametrize("whose", ["nobody's", "alice's"])
async def test_a_ticket_of_another_session_is_refused(start: Start, whose: str) -> None:
    server = await start()
    stream = server.stream()
    opens = [pb.Open(session=1) if whose == "nobody's" else named(1, name="alice")]
    await stream.send(opens=opens, tickets=[1])
    await stream.until(lambda: bool(stream.tickets.get(1)))
    await stream.send(opens=[named(2, ticket=stream.tickets[1][0].ticket)])
    await stream.ended(2)
    assert stream.closed[2][0].reason == pb.CLOSE_REASON_TICKET_REJECTED
    assert server.metric("elman_tickets_rejected_total", reason="session") == 1


async def test_a_restart_forgets_what_was(start: Start, logits: Any) -> None:
    one, two = await start(), await start()
    stream = await opened(one)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    again = await opened(two, restart=True)
    assert again.opened[1].position == 0
    await again.push(1, "xy")
    await again.answered(1, 2)
    assert again.values(1) == logits("xy")
    await left(again)
    assert (await opened(one)).opened[1].position == 2


async def test_a_session_is_told_by_name_which_version_it_is_on(start: Start, logits: Any) -> None:
    server = await start()
    stream = server.stream(version="9")
    await stream.send(opens=[named(1)], push=push({1: "abc"}), closes=[1])
    await stream.ended(1)
    lease_keeper = server.lease_keeper
    await server.until(lambda: not lease_keeper._checkpoint_writer.ended)
    for name, version in (("bob", "9"), ("alice", "10")):
        request = pb.GetModelRequest(name="letters", session=name)
        assert (await server.stub.GetModel(request)).model.version == version
    newest = server.stream()
    await newest.send(opens=[named(1)])
    await newest.ended(1)
    assert newest.closed[1][0].reason == pb.CLOSE_REASON_TICKET_REJECTED
    assert "fingerprint" in newest.closed[1][0].message
    again = server.stream(version="9")
    await again.send(opens=[named(1)])
    await again.until(lambda: 1 in again.opened)
    assert again.opened[1].position == 3


async def test_a_drain_hands_a_named_session_over(start: Start, logits: Any) -> None:
    one, two = await start(), await start(session_lease=30.0)
    stream = await opened(one)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await one.engine().drain(MOVED, grace=30)
    await stream.ended(1)
    last = stream.tickets[1][-1]
    assert last.position == 3
    again = await opened(two, ticket=last.ticket)
    await again.push(1, "d")
    await again.answered(1, 1)
    assert stream.values(1) + again.values(1) == logits("abcd")


async def test_a_parked_session_can_be_had_by_another_client(start: Start, logits: Any) -> None:
    server = await start(park_after=0.1)
    stream = await opened(server, parkable=True)
    await stream.push(1, "abc")
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_PARKED
    back = stream.tickets[1][-1].ticket
    await stream.send(opens=[named(2, ticket=back)], push=push({2: "d"}))
    await stream.answered(2, 1)
    assert stream.values(1) + stream.values(2) == logits("abcd")
    other = await opened(server)
    assert other.opened[1].position == 4
    await stream.ended(2)
    await stream.send(opens=[named(3, ticket=back)])
    await stream.ended(3)
    assert stream.closed[3][0].reason == pb.CLOSE_REASON_TAKEN_OVER


async def test_an_invalid_element_leaves_the_state_before_it(start: Start, logits: Any) -> None:
    server = await start()
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.push(1, "\x00")
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_INVALID_ELEMENT
    assert (await opened(server)).opened[1].position == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "x" * 300}, "300 bytes; allowed is 256"),
        ({"restart": True, "ticket": b"x"}, "restart"),
        ({"name": "", "restart": True}, "restart and no name"),
    ],
)
async def test_an_open_that_makes_no_sense_is_refused(
    start: Start, fields: dict[str, Any], said: str
) -> None:
    server = await start()
    stream = server.stream()
    await stream.send(opens=[named(1, **{"name": "bob", **fields})])
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_INVALID_REQUEST
    assert said in stream.closed[1][0].message


async def test_without_a_store_sessions_have_no_names(serve: Serve) -> None:
    async with serve() as server:
        stream = server.stream()
        await stream.send(opens=[named(1)])
        await stream.ended(1)
        assert stream.closed[1][0].reason == pb.CLOSE_REASON_INVALID_REQUEST
        assert "no state store" in stream.closed[1][0].message
        with pytest.raises(grpc.aio.AioRpcError, match="no state store"):
            await server.stub.GetModel(pb.GetModelRequest(name="letters", session="bob"))
        stream.call.cancel()


async def test_a_server_that_stops_does_not_wait_for_a_session_that_another_has(
    start: Start, tmp_path: Path
) -> None:
    server = await start()
    store = FileStore(tmp_path / "store")
    assert isinstance(
        await store.claim(key("letters", Caller(), "bob"), owner="x", lease_seconds=60), Claim
    )
    stream = server.stream()
    await stream.send(opens=[named(1), pb.Open(session=2)])
    await stream.until(lambda: 2 in stream.opened)
    server.lease_keeper.refuse()
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_SHUTDOWN
    assert 1 not in stream.opened
    await store.close()


def test_a_name_is_its_callers_own() -> None:
    alice, bob = Caller(identity="alice"), Caller(identity="bob")
    assert key("letters", alice, "x") != key("letters", bob, "x") != key("numbers", bob, "x")
