"""What becomes of named sessions when their store fails, and of what is kept when nobody looks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from elman.v1 import inference_pb2 as pb
from elman_server.store.file import FileStore
from elman_server.store.interface import Claim, Held, StoreUnavailable
from elman_server.tickets.keys import new_key
from elman_server.transport.naming import key
from tests.server.transport.conftest import Serve
from tests.server.transport.harness import Conversation, LocalServer, push
from tests.server.transport.test_naming import left, named, opened

Start = Callable[..., Any]
BOB = key("letters", "", "bob")
LEASE = 0.3


class Unreliable:
    """A store that fails when it is told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.error: Exception | None = None
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.error is not None and name != "close":
                raise self.error
            return await getattr(self._store, name)(*arguments, **options)

        return call


DOWN = StoreUnavailable("no route")


@pytest.fixture
async def start(serve: Serve, tmp_path: Path) -> AsyncIterator[Start]:
    shared = {
        "state_store": f"file:{tmp_path}/store",
        "ticket_key": (new_key(),),
        "session_lease": LEASE,
        "checkpoint_interval": 0.03,
    }
    async with AsyncExitStack() as stack:

        async def start(**config: Any) -> LocalServer:
            server: LocalServer = await stack.enter_async_context(serve(**{**shared, **config}))
            assert server.keeper is not None
            server.keeper._store = Unreliable(server.keeper._store)
            return server

        yield start


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[FileStore]:
    """The store as others see it."""
    store = FileStore(tmp_path / "store")
    yield store
    await store.close()


def store_of(server: LocalServer) -> Unreliable:
    assert server.keeper is not None
    assert isinstance(server.keeper._store, Unreliable)
    return server.keeper._store


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
    server = await start()
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
    [warning] = [line for line in log if line["log_level"] == "warning"]
    assert warning["error"] == "no route"
    assert [line["event"] for line in log if line["log_level"] == "info"] == [
        "the state store is back"
    ]


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
    one, two = await start(), await start()
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
    assert isinstance(await outside.claim(BOB, owner="x", lease=LEASE), Held)
    await stream.ended(1)  # as it is wanted
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER


async def test_but_not_if_somebody_else_turns_out_to_have_the_session(
    start: Start, outside: FileStore, logits: Any
) -> None:
    server, stream = await resumed_while_down(start, logits)
    await asyncio.sleep(LEASE)
    assert isinstance(await outside.claim(BOB, owner="x", lease=60), Claim)
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
    assert isinstance(await outside.claim(BOB, owner="x", lease=LEASE), Claim)


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
    server = await start()
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
    keeper = server.keeper
    assert keeper is not None
    # It all happens within one turn of the loop: the claim is lost, time has passed, and elements
    # have come.
    keeper._tasks[0].cancel()
    await asyncio.sleep(2 * LEASE)
    assert keeper.lapsed
    assert isinstance(await outside.claim(BOB, owner="x", lease=60), Claim)
    await stream.send(opens=[pb.Open(session=2)], push=push({1: "def", 2: "xyz"}))
    await server.until(lambda: not server.engine().pending)
    await asyncio.sleep(0.05)
    keeper._tasks[0] = asyncio.create_task(keeper._keep_renewing())
    await stream.ended(1)
    await stream.answered(2, 3)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TAKEN_OVER
    assert len(stream.predictions[1]) == 3


async def test_a_server_that_stops_gives_its_sessions_up_at_once(
    serve: Serve, tmp_path: Path, outside: FileStore
) -> None:
    config = {"state_store": f"file:{tmp_path}/store", "ticket_key": (new_key(),)}
    async with serve(**config) as server:
        stream = await opened(server)
        await stream.push(1, "abc")
        await stream.answered(1, 3)
        stream.call.cancel()
    claim = await outside.claim(BOB, owner="x", lease=60)
    assert isinstance(claim, Claim)
    assert server.catalog.get("letters").tickets.redeem(claim.checkpoint or b"", "").position == 3
