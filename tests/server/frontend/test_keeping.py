"""What becomes of named sessions when their store fails, and of what is kept when nobody looks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from elman.v1 import inference_pb2 as pb
from elman_server.durable.named import opening
from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Claim, Held, StoreUnavailable
from elman_server.durable.store.opening import open_store
from elman_server.durable.tickets.keys import new_key
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.naming import key
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import Conversation, LocalServer, push
from tests.server.frontend.test_naming import left, named, opened

Start = Callable[..., Any]
BOB = key("letters", Caller(), "bob")
LEASE = 0.3
GO_ON = {"store_outage": "continue"}


class Unreliable:
    """A store that fails when it is told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.timeout: float = store.timeout
        self.error: Exception | None = None
        self.failing: set[str] = set()
        """Calls that fail by it; all, if that is empty."""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            fails = name in self.failing if self.failing else name != "close"
            if self.error is not None and fails:
                raise self.error
            return await getattr(self._store, name)(*arguments, **options)

        return call


DOWN = StoreUnavailable("no route")


def told(log: Any) -> list[str]:
    """The events of a log, but for what a busy machine does to a short lease."""
    return [
        line["event"]
        for line in log
        if line["log_level"] in ("warning", "info") and "too slowly" not in line["event"]
    ]


@asynccontextmanager
async def standing_still(server: LocalServer) -> AsyncIterator[None]:
    """Its claims have lapsed. What happens in between happens to it at once, when it goes on."""
    lease_keeper = server.lease_keeper
    assert lease_keeper is not None
    for task in lease_keeper._tasks:
        task.cancel()
    await asyncio.gather(*lease_keeper._tasks, return_exceptions=True)
    await asyncio.sleep(2 * LEASE)
    lease_keeper._health.fence._open_until = 0.0
    assert lease_keeper.lapsed
    yield
    fence = lease_keeper._health.fence
    lease_keeper.start()
    lease_keeper._health.fence = fence


@pytest.fixture
async def start(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    monkeypatch.setattr(opening, "open_store", lambda url: Unreliable(open_store(url)))
    shared = {
        "state_store": f"file:{tmp_path}/store",
        "ticket_key": (new_key(),),
        "session_lease": LEASE,
        "checkpoint_interval": 0.03,
    }
    async with AsyncExitStack() as stack:

        async def start(**config: Any) -> LocalServer:
            return await stack.enter_async_context(serve(**{**shared, **config}))

        yield start


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[FileStore]:
    """The store as others see it."""
    store = FileStore(tmp_path / "store")
    yield store
    await store.close()


def store_of(server: LocalServer) -> Unreliable:
    assert server.lease_keeper is not None
    assert isinstance(server.lease_keeper._store, Unreliable)
    return server.lease_keeper._store


async def kept(server: LocalServer, outside: FileStore, position: int) -> bytes:
    """The checkpoint, as soon as it is of that position."""
    tickets = server.catalog.get("letters").tickets
    async with asyncio.timeout(10):
        while True:
            found = await outside.peek(BOB)
            if found is not None and tickets.redeem(found, "").position == position:
                return found
            await asyncio.sleep(0.005)


async def test_what_was_answered_is_kept_soon_though_nothing_follows(
    start: Start, outside: FileStore
) -> None:
    server = await start()
    stream = await opened(server)
    for count in (1, 2, 3):
        await stream.push(1, "a")
        await stream.answered(1, count)
        await kept(server, outside, count)
    await server.until(lambda: server.metric("elman_checkpoints_total") >= 3)
    assert server.metric("elman_checkpoint_bytes_total") > 3 * 100


async def test_what_nobody_uses_is_kept_for_as_long_as_it_is_open(
    start: Start, outside: FileStore
) -> None:
    server = await start(session_ttl=1.0)
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await kept(server, outside, 3)
    await asyncio.sleep(1.5)
    await kept(server, outside, 3)


async def test_a_store_that_is_down_is_a_metric_and_a_line_in_the_log(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server = await start(**GO_ON)
    stream = await opened(server)
    with structlog.testing.capture_logs() as log:
        store_of(server).error = DOWN
        await server.until(lambda: server.metric("elman_state_store_failures_total") > 2)
        assert server.metric("elman_state_store_down") == 1
        await stream.push(1, "abcdef")
        await stream.answered(1, 6)
        store_of(server).error = None
        await server.until(lambda: not server.metric("elman_state_store_down"))
        await kept(server, outside, 6)
    assert stream.values(1) == logits("abcdef")
    assert told(log) == ["named sessions go on without the state store", "the state store is back"]
    assert [line["error"] for line in log if "without" in line["event"]] == ["no route"]


async def waiting(server: LocalServer) -> None:
    """Until its store has been down for longer than the lease."""
    store_of(server).error = DOWN
    await server.until(lambda: server.lease_keeper is not None and server.lease_keeper.lapsed)


async def test_named_sessions_wait_for_a_store_that_is_down_and_go_on(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server = await start()
    stream = await opened(server)
    with structlog.testing.capture_logs() as log:
        await waiting(server)
        await stream.send(opens=[pb.Open(session=2)], push=push({1: "abc", 2: "xyz"}))
        await stream.answered(2, 3)
        assert not stream.predictions[1]
        await server.until(lambda: server.metric("elman_state_store_down") == 1)
        assert server.metric("elman_named_sessions_waiting") == 1
        store_of(server).error = None
        await stream.answered(1, 3)
        await server.until(lambda: not server.metric("elman_state_store_down"))
    assert server.metric("elman_named_sessions_waiting") == 0
    assert stream.values(1) == logits("abc")
    assert stream.values(2) == logits("xyz")
    await kept(server, outside, 3)
    assert told(log) == ["named sessions wait for the state store", "the state store is back"]


async def test_a_session_that_waited_and_was_taken_over_is_told_nothing_but_that(
    start: Start, outside: FileStore, logits: Any
) -> None:
    """As on a server that was cut off from a store that others reach."""
    cut_off, other = await start(), await start()
    first = await opened(cut_off)
    await first.push(1, "abc")
    await first.answered(1, 3)
    await kept(cut_off, outside, 3)
    await waiting(cut_off)
    second = await opened(other)
    assert second.opened[1].position == 3
    for count in (1, 2, 3):
        await first.send(push=push({1: "d"}), tickets=[1])
        await second.push(1, "z")
        await second.answered(1, count)
    await cut_off.until(lambda: not cut_off.engine().pending)
    store_of(cut_off).error = None
    await first.ended(1)
    assert first.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert len(first.predictions[1]) == 3
    assert max(ticket.position for ticket in first.tickets[1]) <= 3
    assert first.values(1) + second.values(1) == logits("abczzz")


async def test_a_session_that_waits_fills_its_window_and_no_other(
    start: Start, outside: FileStore, logits: Any
) -> None:
    """Its outbox is full, and what it was pushed stays where it is."""
    server = await start(max_message_bytes=16_384, window=4000)
    stream = await opened(server)
    await waiting(server)
    await stream.push(1, "abcdefgh" * 500)
    engine = server.engine()
    await server.until(lambda: bool(engine.pending and not engine.backlog))
    await stream.send(opens=[2])
    for count in range(1, 50):
        await stream.push(2, "ab" * 20)
        await stream.answered(2, 40 * count)
    assert not stream.predictions[1]
    store_of(server).error = None
    await stream.answered(1, 4000)
    assert stream.values(1) == logits("abcdefgh" * 500)
    assert stream.values(2) == logits("ab" * 20 * 49)


async def test_what_all_sessions_that_wait_hold_is_bounded(start: Start, logits: Any) -> None:
    """By bytes, of all RPCs; with which of them nothing waits goes on."""
    server = await start(max_message_bytes=16_384, window=4000, max_unread_bytes=200_000)
    streams = [server.stream() for _ in range(20)]
    for number, stream in enumerate(streams):
        await stream.send(opens=[named(1, name=f"{number}"), named(2, name=f"{number} too")])
        await stream.until(lambda stream=stream: {1, 2} <= stream.opened.keys())
    await waiting(server)
    text = "abcdefgh" * 500
    for stream in streams:
        await stream.push(1, text)
        await stream.push(2, text)
    engine = server.engine()
    await server.until(lambda: bool(engine.pending and not engine.backlog))
    await asyncio.sleep(0.1)
    # Of each RPC a frame is taken before it counts.
    assert server.metric("elman_elements_total") + engine.pending < 20 * 4000 + 8000
    other = server.stream()
    await other.send(opens=[1], push=push({1: "abc"}))
    await other.answered(1, 3)
    store_of(server).error = None
    for stream in streams:
        await stream.answered(1, 4000)
        await stream.answered(2, 4000)
    assert streams[-1].values(2) == logits(text)


async def test_while_named_sessions_wait_nobody_gets_one(start: Start) -> None:
    """It is said at once, so that a client can look elsewhere; with a ticket, too."""
    server = await start()
    stream = await opened(server)
    ticket = stream.tickets[1][0].ticket
    await waiting(server)
    await stream.send(opens=[named(2, name="alice"), named(3, ticket=ticket), pb.Open(session=4)])
    await stream.ended(2, 3)
    await stream.until(lambda: 4 in stream.opened)
    for number in (2, 3):
        assert stream.closed[number][0].reason == pb.CLOSE_REASON_UNAVAILABLE
        assert "no route" in stream.closed[number][0].message


async def test_what_named_sessions_bring_keeps_no_other_one_waiting(start: Start) -> None:
    """Though it is more than an RPC may bring of what can begin at once."""
    server = await start(max_message_bytes=16_384)
    stream = await opened(server)
    await stream.send(push=push({1: "a"}), tickets=[1])
    await stream.until(lambda: len(stream.tickets[1]) > 1)
    ticket = stream.tickets[1][-1].ticket
    server.lease_keeper._health.fence.lends_from = float("inf")  # after an outage
    await stream.send(opens=[named(number, ticket=ticket) for number in range(2, 40)])
    await stream.send(opens=[50], push=push({50: "abc"}))
    await stream.answered(50, 3)
    assert server.admission.crowded_by_contexts is False
    assert server.engine().context_nbytes > server.config.max_message_bytes / 4
    server.lease_keeper._health.fence.lends_from = 0.0


async def test_a_store_that_is_known_to_be_down_is_not_waited_for(start: Start) -> None:
    """A call to one that stands still takes until its time is over."""
    server = await start()
    stream = await opened(server)
    ticket = stream.tickets[1][0].ticket
    await waiting(server)
    store_of(server).calls.clear()
    await stream.send(opens=[named(2, name="alice"), named(3, ticket=ticket, replay=0)])
    await stream.ended(2, 3)
    assert {"claim", "peek"}.isdisjoint(store_of(server).calls)
    store_of(server).error = None
    await server.until(lambda: not server.lease_keeper.down)
    await stream.send(opens=[named(4, name="alice")])
    await stream.until(lambda: 4 in stream.opened)


async def test_what_ended_while_it_waited_is_told_when_the_store_is_back(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server = await start()
    stream = await opened(server)
    await waiting(server)
    await stream.send(push=push({1: "abc"}), closes=[1])
    await server.until(lambda: not server.admission.sessions)
    await stream.send(opens=[2])
    await stream.until(lambda: 2 in stream.opened)
    assert 1 not in stream.closed
    store_of(server).error = None
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_FINISHED
    assert stream.values(1) == logits("abc")
    await kept(server, outside, 3)


async def test_a_client_that_goes_while_its_session_waits_leaves_what_was_computed(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server = await start()
    stream = await opened(server)
    await waiting(server)
    await stream.push(1, "abc")
    await server.until(lambda: server.metric("elman_elements_total") == 3)
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    store_of(server).error = None
    await kept(server, outside, 3)


async def test_a_session_that_waits_is_not_looked_for_again_and_again(start: Start) -> None:
    """Others' traffic on its RPC asks the store for nothing."""
    server = await start()
    stream = await opened(server)
    await waiting(server)
    await stream.send(opens=[2])
    store_of(server).calls.clear()
    begun = asyncio.get_running_loop().time()
    for count in range(1, 301):
        await stream.push(2, "a")
        await stream.answered(2, count)
    seconds = asyncio.get_running_loop().time() - begun
    # Three in a lease, as ever; and one at once, when the first answer has to wait.
    assert store_of(server).calls.count("renew") <= 3 + 3 * seconds / LEASE


async def test_a_session_that_is_not_known_here_is_refused_while_the_store_is_down(
    start: Start,
) -> None:
    server = await start()
    store_of(server).error = DOWN
    stream = server.stream()
    await stream.send(opens=[named(1), pb.Open(session=2)])
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_UNAVAILABLE
    assert "no route" in stream.closed[1][0].message
    await stream.until(lambda: 2 in stream.opened)
    with pytest.raises(Exception, match="no route"):
        await server.stub.GetModel(pb.GetModelRequest(name="letters", session="bob"))


async def resumed_while_down(start: Start, logits: Any) -> tuple[LocalServer, Conversation]:
    """Of a session that was on a server that died with its store."""
    one, two = await start(**GO_ON), await start(**GO_ON)
    first = await opened(one)
    await first.push(1, "abc")
    await first.answered(1, 3)
    for server in (one, two):
        store_of(server).error = DOWN
    second = await opened(two, ticket=first.tickets[1][0].ticket)
    await second.push(1, "abcd")
    await second.answered(1, 4)
    assert second.values(1) == logits("abcd")
    first.call.cancel()
    return two, second


async def test_a_client_with_a_ticket_goes_on_while_the_store_is_down(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server, stream = await resumed_while_down(start, logits)
    store_of(server).error = None
    await kept(server, outside, 4)
    assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=LEASE), Held)
    await stream.ended(1)  # as it is wanted
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER


async def test_but_not_if_somebody_else_turns_out_to_have_the_session(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server, stream = await resumed_while_down(start, logits)
    await asyncio.sleep(LEASE)
    assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=60), Claim)
    store_of(server).error = None
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert await outside.peek(BOB) is None or await kept(server, outside, 3)


async def test_a_client_that_went_while_the_store_was_down_finds_what_it_left(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server, stream = await resumed_while_down(start, logits)
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    store_of(server).error = None
    await kept(server, outside, 4)
    await left(stream)
    assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=LEASE), Claim)


async def test_after_an_outage_those_that_have_sessions_come_first(
    start: Start, outside: FileStore
) -> None:
    server = await start(session_lease=1.0)
    store_of(server).error = DOWN
    await server.until(lambda: bool(server.metric("elman_state_store_down")))
    store_of(server).error = None
    await server.until(lambda: not server.metric("elman_state_store_down"))
    back = asyncio.get_running_loop().time()
    await opened(server)
    assert asyncio.get_running_loop().time() >= back + 0.5


async def test_a_bug_in_the_store_ends_no_loop(
    start: Start, outside: FileStore, capsys: Any
) -> None:
    server = await start(**GO_ON)
    stream = await opened(server)
    store_of(server).error = ValueError("bug")
    await server.until(lambda: server.metric("elman_state_store_failures_total") > 5)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    store_of(server).error = None
    await kept(server, outside, 3)


async def test_a_bug_at_an_open_ends_that_session(start: Start) -> None:
    server = await start()
    store_of(server).error = ValueError("bug")
    stream = server.stream()
    await stream.send(opens=[named(1), pb.Open(session=2)])
    await stream.ended(1)
    await stream.until(lambda: 2 in stream.opened)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_UNAVAILABLE


async def test_nothing_is_told_while_somebody_else_may_have_the_session(
    start: Start, outside: FileStore
) -> None:
    """The server stands still for longer than a lease. Then its claims are looked at first."""
    server = await start()
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await kept(server, outside, 3)
    async with standing_still(server):
        assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=60), Claim)
        await stream.send(opens=[pb.Open(session=2)], push=push({1: "def", 2: "xyz"}))
        await server.until(lambda: not server.engine().pending)
        await stream.answered(2, 3)  # it has no name
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert len(stream.predictions[1]) == 3


async def test_nothing_is_told_of_a_session_that_ended_and_was_lost_before_that_was_told(
    start: Start, outside: FileStore
) -> None:
    server = await start()
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await kept(server, outside, 3)
    async with standing_still(server):
        assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=60), Claim)
        await stream.send(push=push({1: "def"}), closes=[1])
        await server.until(lambda: not server.admission.sessions)
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert len(stream.predictions[1]) == 3
    assert not [ticket for ticket in stream.tickets[1] if ticket.position > 3]


async def test_that_a_call_to_the_store_fails_lets_nobody_tell_anything(
    start: Start, outside: FileStore
) -> None:
    """Only what became of a renewal does: a call that was under way while the server stood still
    may fail for that."""
    server = await start()
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await kept(server, outside, 3)
    async with standing_still(server):
        assert isinstance(await outside.claim(BOB, owner="x", lease_seconds=60), Claim)
        store_of(server).error, store_of(server).failing = DOWN, {"claim", "peek", "save"}
        failures = server.metric("elman_state_store_failures_total")
        other = server.stream()
        await other.send(opens=[named(1, name="alice")])
        await server.until(lambda: server.metric("elman_state_store_failures_total") > failures)
        with pytest.raises(Exception, match="no route"):
            await server.stub.GetModel(pb.GetModelRequest(name="letters", session="bob"))
        await stream.push(1, "def")
        await server.until(lambda: not server.engine().pending)
        await asyncio.sleep(0.05)
        assert server.lease_keeper is not None and server.lease_keeper.lapsed
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert len(stream.predictions[1]) == 3


async def test_a_store_that_takes_claims_and_no_checkpoints_is_down(
    start: Start, outside: FileStore
) -> None:
    """As a folder on a disk that is full."""
    server = await start()
    stream = await opened(server)
    with structlog.testing.capture_logs() as log:
        store_of(server).error, store_of(server).failing = DOWN, {"save"}
        await stream.push(1, "abc")
        await server.until(lambda: server.metric("elman_state_store_down") == 1)
        await stream.answered(1, 3)
        store_of(server).error = None
        await kept(server, outside, 3)
        await server.until(lambda: not server.metric("elman_state_store_down"))
    assert told(log) == ["named sessions are not saved", "named sessions are saved again"]


async def test_a_store_that_takes_no_writes_is_down_though_there_is_no_session(
    start: Start,
) -> None:
    server = await start()
    store_of(server).error, store_of(server).failing = DOWN, {"claim", "renew", "save", "release"}
    await server.until(lambda: server.metric("elman_state_store_down") == 1)
    failures = server.metric("elman_state_store_failures_total")
    await server.until(lambda: server.metric("elman_state_store_failures_total") > failures + 2)
    assert server.metric("elman_state_store_down") == 1


async def test_a_client_that_was_taken_over_does_not_have_it_back_while_the_store_is_down(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server = await start(**GO_ON)
    first = await opened(server)
    ticket = first.tickets[1][0].ticket
    second = await opened(server)
    await first.ended(1)
    store_of(server).error = DOWN
    late = server.stream()
    await late.send(opens=[named(1, ticket=ticket)])
    await late.ended(1)
    assert late.closed[1][0].reason == pb.CLOSE_REASON_UNAVAILABLE
    await second.push(1, "abc")
    await second.answered(1, 3)
    store_of(server).error = None
    await kept(server, outside, 3)
    await late.send(opens=[named(2, ticket=ticket)])
    await late.ended(2)
    assert late.closed[2][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    await second.push(1, "d")
    await second.answered(1, 4)
    assert second.values(1) == logits("abcd")


async def test_a_client_that_came_twice_while_the_store_was_down_stays(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server, stream = await resumed_while_down(start, logits)
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    again = await opened(server, ticket=stream.tickets[1][0].ticket)
    await again.push(1, "abcdef")
    await again.answered(1, 6)
    store_of(server).error = None
    await kept(server, outside, 6)
    await asyncio.sleep(2 * LEASE)
    await again.push(1, "g")
    await again.answered(1, 7)
    assert again.values(1) == logits("abcdefg")
    await kept(server, outside, 7)


async def test_an_open_that_is_given_up_in_the_middle_of_its_claim_leaves_nothing(
    start: Start, outside: FileStore
) -> None:
    server = await start(session_lease=60.0)
    store = store_of(server)
    asked, go_on = asyncio.Event(), asyncio.Event()
    claim = store._store.claim

    async def slowly(*arguments: Any, **options: Any) -> Any:
        found = await claim(*arguments, **options)
        asked.set()
        await go_on.wait()
        return found

    store._store.claim = slowly
    stream = server.stream()
    await stream.send(opens=[named(1)])
    await asked.wait()
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    go_on.set()
    async with asyncio.timeout(10):
        while not isinstance(await outside.claim(BOB, owner="x", lease_seconds=60), Claim):
            await asyncio.sleep(0.005)


async def test_a_claim_whose_answer_came_late_is_made_again(
    start: Start, outside: FileStore
) -> None:
    """The server stood still meanwhile, and somebody else had the session."""
    server = await start()
    store = store_of(server)
    claim = store._store.claim
    generations: list[int] = []

    async def slowly(*arguments: Any, **options: Any) -> Any:
        found = await claim(*arguments, **options)
        if not generations:
            await asyncio.sleep(1.5 * LEASE)
            other = await outside.claim(BOB, owner="x", lease_seconds=LEASE)
            assert isinstance(other, Claim)
            generations.append(other.generation)
        return found

    store._store.claim = slowly
    stream = await opened(server)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    await kept(server, outside, 3)
    assert store.calls.count("claim") > 1


async def test_who_does_not_read_can_be_taken_over(start: Start, outside: FileStore) -> None:
    server = await start(max_message_bytes=64 * 1024, window=1_000_000)
    stream = await opened(server)
    await stream.push(1, "abcdefgh" * 8000)
    engine = server.engine()
    await server.until(lambda: bool(engine.pending and not engine.backlog))
    other = await opened(server)
    assert 0 < other.opened[1].position < 64_000
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    # All that it was answered it is told, too.
    assert len(stream.predictions[1]) == other.opened[1].position


async def test_a_server_that_stops_gives_its_sessions_up_at_once(
    serve: Serve, tmp_path: Path, outside: FileStore
) -> None:
    config = {"state_store": f"file:{tmp_path}/store", "ticket_key": (new_key(),)}
    async with serve(**config) as server:
        stream = await opened(server)
        await stream.push(1, "abc")
        await stream.answered(1, 3)
        stream.call.cancel()
    claim = await outside.claim(BOB, owner="x", lease_seconds=60)
    assert isinstance(claim, Claim)
    assert server.catalog.get("letters").tickets.redeem(claim.checkpoint or b"", "").position == 3
