"""A client that does not read can't have the server hold what it likes for as long as it likes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.frontend.gate import slow_readers
from elman_server.frontend.gate.slow_readers import SlowReaders
from elman_server.frontend.grpcio import transport
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import LocalServer


@dataclass(eq=False)
class Call:
    unread_nbytes: int = 0
    ended: list[str] = field(default_factory=list)

    def give_up(self, why: str) -> None:
        self.ended.append(why)


@dataclass
class World:
    now: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def readers(self, *, timeout: float = 60.0, max_nbytes: float = 1000) -> SlowReaders:
        return SlowReaders(
            timeout=timeout,
            max_nbytes=max_nbytes,
            clock=lambda: self.now,
            given_up=self.reasons.append,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Looks come as fast as they can."""
    monkeypatch.setattr(slow_readers, "_LOOK_SECONDS", 0.0)
    return World()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0)


async def looks(readers: SlowReaders) -> None:
    """Returns after it had the time to look several times."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_call_whose_client_takes_nothing_for_long_is_ended(world: World) -> None:
    readers, call, other = world.readers(timeout=60.0), Call(), Call()
    readers.writes(call)
    world.now = 59.9
    readers.writes(other)
    await looks(readers)
    assert not call.ended
    world.now = 60.0
    await until(lambda: bool(call.ended))
    assert call.ended == ["its client has read nothing for 60 s"]
    assert world.reasons == ["slow"]
    readers.wrote(other)
    assert not other.ended


async def test_the_time_begins_anew_with_each_write(world: World) -> None:
    readers, call = world.readers(timeout=60.0), Call()
    for start in (0.0, 50.0, 100.0):
        world.now = start
        readers.writes(call)
        world.now = start + 49.0
        await looks(readers)
        readers.wrote(call)
    assert not call.ended


async def test_those_that_hold_the_most_are_ended_when_all_hold_too_much(world: World) -> None:
    readers = world.readers(max_nbytes=1000)
    calls = [Call(nbytes) for nbytes in (300, 900, 400, 200)]
    for call in calls:
        readers.writes(call)
    world.now = 1.0
    await until(lambda: bool(calls[1].ended))
    await looks(readers)
    assert [bool(call.ended) for call in calls] == [False, True, False, False]
    assert world.reasons == ["memory"]
    assert calls[1].ended[0].startswith("its client does not read, and 900 bytes are held for it")
    for call in calls:
        readers.wrote(call)


async def test_a_write_that_has_only_begun_is_no_sign(world: World) -> None:
    readers, call = world.readers(max_nbytes=0), Call(10**9)
    readers.writes(call)
    await looks(readers)
    assert not call.ended
    readers.wrote(call)


async def test_it_looks_only_while_there_is_something_to_look_at(world: World) -> None:
    readers, call = world.readers(), Call()
    readers.writes(call)
    readers.wrote(call)
    await looks(readers)
    assert readers._looking is None


@asynccontextmanager
async def connected(server: LocalServer) -> AsyncIterator[Any]:
    """Streams of a client that takes next to nothing which it does not read."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.lookahead_bytes", 1024),
        ("grpc.http2.bdp_probe", 0),
    ]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        yield channel.stream_stream(
            "/elman.v1.Inference/Stream",
            request_serializer=pb.StreamRequest.SerializeToString,
            response_deserializer=pb.StreamResponse.FromString,
        )


async def opened(stream: Any, *, push: str = "") -> Any:
    call = stream()
    await call.write(pb.StreamRequest(model="letters", opens=[pb.Open(session=1)]))
    await call.read()
    if push:
        await call.write(pb.StreamRequest(push=pb.Push(sessions=[1], text=push)))
    return call


async def end(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                await call.read()
    return caught.value.code(), caught.value.details() or ""


async def test_who_reads_again_hears_of_the_end_and_others_go_on(serve: Serve) -> None:
    async with serve(read_timeout=0.5, window=100_000) as server, connected(server) as stream:
        other = await opened(stream)
        call = await opened(stream, push="a" * 60_000)
        await server.until(lambda: server.metric("elman_calls_given_up_total", reason="slow") == 1)
        await server.until(lambda: server.admission.sessions == 1)
        code, details = await end(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details == "its client has read nothing for 0.5 s"
        await other.write(pb.StreamRequest(push=pb.Push(sessions=[1], text="a")))
        assert (await other.read()).predictions
        other.cancel()
        await server.until(lambda: server.admission.sessions == 0)


async def test_what_is_not_read_even_then_does_not_stay(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC keeps it until the connection ends."""
    monkeypatch.setattr(transport, "_TAKEN_SECONDS", 0.2)
    async with serve(read_timeout=0.5, window=100_000) as server, connected(server) as stream:
        call = await opened(stream, push="a" * 60_000)
        await server.until(lambda: server.metric("elman_calls_refused_total", reason="unread") == 1)
        async with asyncio.timeout(30):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
