"""Many open sessions: how long they take to open, and the memory that each takes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import elman.aio
from benchmarks.performance.run import Crowd
from elman.bench.usage import Usage
from elman_server.model import modelfile

SESSIONS = 10_000
_WAVE = 1000
"""Sessions that push at once: they warm the server up, too, before its memory is looked at."""


async def measure(
    target: str, path: Path, usage: Callable[[], Usage], sessions: int = SESSIONS
) -> Crowd:
    """Opens them over one client, on a fresh server of the one model at `path`."""
    async with elman.aio.connect(target) as client:
        (model,) = await client.models()
        early = await _opened(client, model.name, _WAVE)
        await _step(early)
        before = await _resident(usage)
        start = time.perf_counter()
        streams = await _opened(client, model.name, sessions)
        open_seconds = time.perf_counter() - start
        opened = await _resident(usage)
        for first in range(0, sessions, _WAVE):
            await _step(streams[first : first + _WAVE])
        used = await _resident(usage)
    states = modelfile.read(path).spec.states
    return Crowd(
        sessions=sessions,
        open_seconds=open_seconds,
        state_nbytes=sum(state.initial_value().nbytes for state in states),
        opened_nbytes=(opened - before) / sessions,
        used_nbytes=(used - before) / sessions,
    )


async def _opened(client: elman.aio.Client, model: str, count: int) -> list[elman.aio.Stream]:
    async def one() -> elman.aio.Stream:
        return await client.stream(model)

    return await asyncio.gather(*(one() for _ in range(count)))


async def _step(streams: list[elman.aio.Stream]) -> None:
    await asyncio.gather(*(stream.step("a") for stream in streams))


async def _resident(usage: Callable[[], Usage]) -> float:
    return (await asyncio.to_thread(usage)).resident_bytes
