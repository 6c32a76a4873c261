"""Replicas that are killed when they take too much memory, each in a control group of its own.

pytest -m slow -s tests/chaos/test_memory.py
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

import elman
from elman import aio
from tests.abuse import models
from tests.chaos.fleet import Fleet
from tests.chaos.groups import MemoryGroup
from tests.chaos.load import Load, p99, quantiles
from tests.chaos.shells import Connect

long = pytest.mark.slow
MIB = 1024 * 1024
REPLICAS = 2
GROUP_MIB = 700
"""What each replica may take."""
STATE_MIB = 1
"""Of each session of the deep model."""
PAUSE_SECONDS = 5.0
"""What p99 of the longest pauses may be, on a busy machine."""


async def _watch(fleet: Fleet, stop: asyncio.Event) -> int:
    """Starts again what was killed, as a supervisor does; how often."""
    kills = 0
    while not stop.is_set():
        for number in range(REPLICAS):
            if fleet[number].process.poll() is not None:
                kills += 1
                await asyncio.to_thread(fleet.start, number)
        await asyncio.sleep(0.05)
    return kills


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    models.save(models.deep(STATE_MIB * MIB // 4), tmp_path, "deep")
    yield tmp_path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("sessions", "seconds"), [(20, 8.0), pytest.param(200, 60.0, marks=long)], ids=["short", "long"]
)
async def test_who_opens_too_many_sessions_takes_no_replica_down_for_others(
    repository: Path, connect: Connect, sessions: int, seconds: float
) -> None:
    """With the default bound of state, which knows the group's memory."""
    with ExitStack() as stack:
        groups = [
            stack.enter_context(MemoryGroup(str(number), GROUP_MIB * MIB))
            for number in range(REPLICAS)
        ]
        commands = [group.command for group in groups]
        fleet = stack.enter_context(Fleet(REPLICAS, str(repository), "--demo", prefixes=commands))
        await _play(fleet, connect, sessions, seconds)


async def _play(fleet: Fleet, connect: Connect, sessions: int, seconds: float) -> None:
    stop = asyncio.Event()
    watching = asyncio.create_task(_watch(fleet, stop))
    async with connect(fleet.targets) as client, Load(client, sessions, seed=31) as load:
        begun = monotonic()
        hoarding = asyncio.create_task(_hoard(fleet.targets, begun + seconds))
        while not hoarding.done():
            await load.run(0.1)
        refused, opened = hoarding.result()
        await load.run(1.0)
    load.check()
    stop.set()
    kills = await watching
    pauses = load.pauses([begun], within=seconds)
    print(f"\n{opened} sessions of {STATE_MIB} MiB opened, {refused} refused, {kills} kills")
    print(f"{load.answered} elements answered")
    print(quantiles("the longest pause of each session", pauses))
    assert refused > 0
    assert kills == 0
    assert p99(pauses) < PAUSE_SECONDS


async def _hoard(targets: list[str], until: float) -> tuple[int, int]:
    """Opens sessions, pushes to each once, and keeps them; how many were refused and opened."""
    streams: list[aio.Stream] = []
    refused = 0

    async def take(client: aio.Client) -> None:
        nonlocal refused
        while monotonic() < until:
            try:
                stream = await client.stream("deep", window=1)
                streams.append(stream)
                await stream.step([1.0])
            except elman.ElmanError:
                refused += 1
                await asyncio.sleep(0.05)

    async with aio.connect(targets, timeout=2, resume_timeout=2) as client:
        await asyncio.gather(*(take(client) for _ in range(8)))
        await client.close(grace=0)
    return refused, len(streams)
