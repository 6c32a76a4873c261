"""Sessions that a server hands over: with every prediction of what was pushed, and a ticket of
just that position."""

import asyncio
from typing import Any

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.engine import lifecycle
from elman_server.engine.sessions.ending import Ending, EndReason
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import LocalServer, push
from tests.server.frontend.test_tickets import resumed

MOVED = Ending(reason=EndReason.MOVED, message="go on elsewhere")


async def test_a_drain_answers_what_was_pushed_and_gives_each_session_its_ticket(
    server: LocalServer, logits: Any
) -> None:
    stream = server.stream()
    texts = {1: "abc", 2: "d" * 500, 3: ""}
    await stream.send(opens=[1, 2, 3], push=push({1: "abc", 2: "d" * 500}))
    await stream.answered(1, 3)
    await server.engine().drain(MOVED, grace=30)
    await stream.ended(1, 2, 3)
    for number, text in texts.items():
        [closed], [ticket] = stream.closed[number], stream.tickets[number]
        assert (closed.reason, closed.message) == (pb.CLOSE_REASON_MOVED, "go on elsewhere")
        assert closed.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert ticket.position == closed.position == len(text)
        assert stream.values(number) == logits(text)
        again = await resumed(server, ticket.ticket, "xya")
        assert stream.values(number) + again.values(4) == logits(text + "xya")
    assert server.metric("elman_sessions_closed_total", reason="moved") == 3


async def test_what_is_pushed_after_the_hand_over_began_is_not_taken(
    server: LocalServer, logits: Any
) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "a" * 2000}))
    await stream.until(lambda: bool(stream.opened))
    session = next(iter(server.engine()._scheduler.sessions))
    await server.until(lambda: session.position + session.unanswered == 2000)
    server.engine().close(session, MOVED)
    await stream.push(1, "b" * 10)
    await stream.ended(1)
    assert stream.closed[1][0].position == stream.tickets[1][0].position == 2000
    assert stream.values(1) == logits("a" * 2000)


async def test_when_the_grace_is_over_the_ticket_is_of_what_was_answered(
    server: LocalServer, logits: Any
) -> None:
    stream, text = server.stream(), "abcdefgh" * 10_000
    await stream.send(opens=[1], push=push({1: text}))
    await stream.answered(1, 1)
    await server.engine().drain(MOVED, grace=0.01)
    await stream.ended(1)
    position = stream.tickets[1][0].position
    assert 0 < position == stream.closed[1][0].position < len(text)
    assert stream.values(1) == logits(text[:position])


async def test_a_connection_of_age_hands_its_sessions_over_and_takes_no_more(
    serve: Serve, logits: Any
) -> None:
    async with serve(max_connection_age=0.2) as server:
        stream = server.stream()
        await stream.send(opens=[1, 2], push=push({1: "abc"}))
        await stream.ended(1, 2)
        assert [stream.tickets[n][0].position for n in (1, 2)] == [3, 0]
        assert await stream.read_all() is grpc.StatusCode.UNAVAILABLE
        assert "connect anew" in await stream.details()
        again = await resumed(server, stream.tickets[1][0].ticket, "d")
        assert stream.values(1) + again.values(4) == logits("abcd")


async def test_a_cancelled_rpc_is_not_waited_for(serve: Serve) -> None:
    async with serve(max_connection_age=60) as server:
        stream = server.stream()
        await stream.send(opens=[1])
        await stream.until(lambda: bool(stream.opened))
        stream.call.cancel()
        await server.until(lambda: not server.engine().sessions)
        assert not [task for task in asyncio.all_tasks() if "_leave" in repr(task)]


async def test_an_idle_session_is_parked_and_comes_back_where_it_was(
    serve: Serve, logits: Any
) -> None:
    async with serve(park_after=0.1) as server:
        stream = server.stream()
        opens = [pb.Open(session=n, parkable=n < 3) for n in (1, 2, 3)]
        await stream.send(opens=opens, push=push({1: "abc", 3: "a"}))
        await stream.ended(1, 2)
        assert server.engine().sessions == server.engine().slots == 1
        for number, text in ((1, "abc"), (2, "")):
            [closed], [ticket] = stream.closed[number], stream.tickets[number]
            assert closed.reason == pb.CLOSE_REASON_PARKED
            assert closed.position == ticket.position == len(text)
            opened = pb.Open(session=number + 10, ticket=ticket.ticket, parkable=True)
            await stream.send(opens=[opened], push=push({number + 10: "de"}))
            await stream.answered(number + 10, 2)
            assert stream.values(number) + stream.values(number + 10) == logits(text + "de")
        assert server.metric("elman_sessions_closed_total", reason="parked") == 2
        assert server.metric("elman_sessions_resumed_total") == 2
        stream.call.cancel()


async def test_a_session_that_was_opened_for_a_push_is_not_parked_before_it(
    serve: Serve, logits: Any
) -> None:
    """However long the push takes: it may be behind the opens of thousands of others."""
    async with serve(park_after=0.1) as server:
        stream = server.stream()
        await stream.send(opens=[pb.Open(session=1, parkable=True)], push=push({1: "abc"}))
        await stream.ended(1)
        ticket = stream.tickets[1][0].ticket
        await stream.send(opens=[pb.Open(session=2, ticket=ticket, parkable=True)])
        for number in (3, 4):  # each is opened and parked after it
            await stream.send(opens=[pb.Open(session=number, parkable=True)])
            await stream.ended(number)
        assert 2 not in stream.closed
        await stream.push(2, "de")
        async with asyncio.timeout(10):
            await stream.ended(2)
        assert stream.closed[2][0].reason == pb.CLOSE_REASON_PARKED
        assert stream.values(1) + stream.values(2) == logits("abcde")


async def test_a_session_that_was_opened_for_a_push_does_not_wait_for_it_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "RESUMED_SECONDS", 0.3)
    async with serve(park_after=0.1) as server:
        stream = server.stream()
        await stream.send(opens=[1], tickets=[1])
        await stream.until(lambda: bool(stream.tickets.get(1)))
        opened = server.engine().now()
        ticket = stream.tickets[1][0].ticket
        await stream.send(opens=[pb.Open(session=2, ticket=ticket, parkable=True)])
        await stream.ended(2)
        assert stream.closed[2][0].reason == pb.CLOSE_REASON_PARKED
        assert server.engine().now() > opened + 0.4
        stream.call.cancel()


async def test_a_session_that_is_busy_is_not_parked(serve: Serve, logits: Any) -> None:
    async with serve(park_after=0.2) as server:
        stream = server.stream()
        await stream.send(opens=[pb.Open(session=1, parkable=True)])
        begin = server.engine().now()
        count = 0
        while server.engine().now() < begin + 0.6:
            await stream.push(1, "a")
            count += 1
            await stream.answered(1, count)
        assert 1 not in stream.closed
        await stream.half_close()
        await stream.read_all()
        assert stream.values(1) == logits("a" * count)


async def test_a_drain_holds_no_more_tickets_than_fit_into_frames(serve: Serve) -> None:
    """The states of all sessions at once would be as much memory as they have already."""
    async with serve(max_message_bytes=8192) as server:
        stream, numbers = server.stream(), range(1, 301)
        await stream.send(opens=list(numbers), push=push({1: "abc", 300: "d"}))
        await stream.answered(300, 1)
        # One step's sessions may overshoot what the outbox takes.
        most = 0
        session = next(iter(server.engine()._scheduler.sessions))
        drain = asyncio.create_task(server.engine().drain(MOVED, grace=30))
        while not drain.done():
            most = max(most, session.outbox._size)
            await asyncio.sleep(0)
        await stream.ended(*numbers)
        assert [stream.tickets[n][0].position for n in (1, 2, 300)] == [3, 0, 1]
        assert len(stream.tickets) == 300
        assert most < 10_000


async def test_a_session_that_was_closed_is_handed_over_when_the_grace_is_over(
    server: LocalServer, logits: Any
) -> None:
    stream, text = server.stream(), "abcdefgh" * 10_000
    await stream.send(opens=[1], push=push({1: text}), closes=[1])
    await stream.answered(1, 1)
    await server.engine().drain(MOVED, grace=0.01)
    await stream.ended(1)
    position = stream.tickets[1][0].position
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_MOVED
    assert 0 < position == stream.closed[1][0].position < len(text)
    assert stream.values(1) == logits(text[:position])


async def test_a_session_that_got_no_ticket_is_not_said_to_have_moved(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[1])
    await stream.until(lambda: bool(stream.opened))
    engine = server.engine()
    late: list[Any] = []
    step_loop = engine._step_loop
    submit, step_loop._worker.submit = step_loop._worker.submit, late.append
    step_loop._executor.runs_inline = lambda job: False
    await engine.drain(MOVED, grace=0)
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_SHUTDOWN
    assert 1 not in stream.tickets
    for work in late:
        submit(work)
    await server.until(lambda: not engine.slots)


async def test_a_model_that_is_to_go_keeps_the_sessions_that_it_has(serve: Serve) -> None:
    async with serve(park_after=0.1, max_connection_age=0.1) as server:
        server.engine().pinned = True
        stream = server.stream()
        await stream.send(opens=[pb.Open(session=1, parkable=True)], push=push({1: "abc"}))
        await stream.answered(1, 3)
        await asyncio.sleep(0.5)
        assert not stream.closed
        server.engine().pinned = False
        await stream.ended(1)


async def test_a_connection_of_age_whose_client_does_not_read_frees_its_sessions(
    serve: Serve,
) -> None:
    async with serve(max_connection_age=0.2, grace_period=0.1, window=100_000) as server:
        stream = server.stream("leaky")
        await stream.send(opens=[1], push=push({1: b"\0" * 12 * 90_000}))
        await server.until(lambda: bool(server.admission.sessions))
        await server.until(lambda: not server.admission.sessions)
        stream.call.cancel()
