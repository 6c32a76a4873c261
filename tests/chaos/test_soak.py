"""Sessions that open, idle, are parked, come back, end and die, for a long time: nothing grows.

Two minutes in the suite; as many as one likes by hand:

    ELMAN_SOAK_SECONDS=1800 pytest -s --timeout=3600 tests/chaos/test_soak.py
"""

import asyncio
import os
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic

import psutil
import pytest

import elman
from elman import aio
from elman_server.durable.tickets.keys import new_key
from elman_server.model.repository import BUNDLED
from tests.chaos.load import quantiles
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess

SECONDS = float(os.environ.get("ELMAN_SOAK_SECONDS", "120"))
TEXT = "the quick brown fox jumps over the lazy dog " * 12
LONG_LIVED, SHORT_LIVED, DYING, SHARING, NAMES = 60, 20, 3, 20, 15
MIB = 1024 * 1024


class Life:
    """What sessions do, and how often."""

    def __init__(self, target: str, rng: Random) -> None:
        self._target = target
        self._rng = rng
        self._alone = [o["positive"].item() for o in Oracle(_MODEL).run(TEXT)]
        self.until = monotonic() + SECONDS
        self.returned: list[float] = []
        """Seconds that the first prediction after a long silence took."""
        self.lived = 0
        self.taken = 0
        """How often a named session went to another client."""

    @property
    def over(self) -> bool:
        return monotonic() >= self.until

    async def idle(self, client: aio.Client) -> None:
        """A session after another, each of which is silent now and then, for long enough to be
        parked."""
        while not self.over:
            async with client.stream("sentiment", outputs="positive") as stream:
                while stream.position < len(TEXT) - 20 and not self.over:
                    await self._push(stream, self._rng.randint(1, 20))
                    await asyncio.sleep(self._rng.choice([0.0, 0.05, 0.7, 1.5]))
                    begun = monotonic()
                    await self._push(stream, 1)
                    self.returned.append(monotonic() - begun)
            self.lived += 1

    async def hurry(self, client: aio.Client) -> None:
        """Short sessions, branches and whole sequences."""
        while not self.over:
            async with client.stream("sentiment", outputs="positive") as stream:
                await self._push(stream, self._rng.randint(1, 40))
                async with await stream.fork() as branch:
                    await self._push(branch, 5)
                await self._push(stream, 5)
            length = self._rng.randint(1, 100)
            found = await client.predict("sentiment", TEXT[:length], outputs="positive")
            assert found["positive"].tolist() == self._alone[:length]
            self.lived += 3

    async def die(self) -> None:
        """Clients that go in the middle of everything."""
        while not self.over:
            client = await aio.connect(self._target)
            streams = [await client.stream("sentiment") for _ in range(10)]
            for stream in streams:
                await stream.push_many(TEXT[: self._rng.randint(1, 500)])
            await asyncio.sleep(self._rng.uniform(0, 0.05))
            await client.close(grace=0)
            self.lived += len(streams)
            await asyncio.sleep(0.2)

    async def share(self, client: aio.Client) -> None:
        """Named sessions that clients take from one another."""
        while not self.over:
            name = f"session {self._rng.randint(1, NAMES)}"
            try:
                async with client.stream("sentiment", outputs="positive", session=name) as stream:
                    for _ in range(5):
                        if stream.position > len(TEXT) - 40:
                            break
                        await self._push(stream, self._rng.randint(1, 20))
                        await asyncio.sleep(self._rng.choice([0.0, 0.05, 0.7]))
                    else:
                        continue
                async with client.stream("sentiment", session=name, restart=True):
                    pass
            except elman.SessionTaken:
                self.taken += 1
            self.lived += 1

    async def _push(self, stream: aio.Stream, count: int) -> None:
        first = stream.position
        found = [p["positive"] async for p in stream.map(TEXT[first : first + count])]
        assert found == self._alone[first : first + count]


_MODEL = BUNDLED / "sentiment/1/model.onnx"


@pytest.mark.timeout(int(SECONDS) + 120)
async def test_sessions_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    samples = []
    store = ("--state-store", f"file:{tmp_path}", "--session-ttl", "60")
    with ServerProcess(
        *("--demo", "--park-after", "0.5", "--retry-after", "0.1", *store),
        env={"ELMAN_TICKET_KEY": new_key()},
    ) as server:
        process = psutil.Process(server.process.pid)
        life = Life(server.target, Random(9))
        async with aio.connect(server.target, ticket_every=50) as client:
            tasks = [asyncio.create_task(life.idle(client)) for _ in range(LONG_LIVED)]
            tasks += [asyncio.create_task(life.hurry(client)) for _ in range(SHORT_LIVED)]
            tasks += [asyncio.create_task(life.die()) for _ in range(DYING)]
            tasks += [asyncio.create_task(life.share(client)) for _ in range(SHARING)]
            while not life.over:
                await asyncio.sleep(1.0)
                samples.append(process.memory_info().rss / MIB)
                for task in tasks:
                    if task.done():
                        task.result()
            await asyncio.gather(*tasks)
        async with asyncio.timeout(30):
            while await asyncio.to_thread(server.metric, "elman_sessions"):
                await asyncio.sleep(0.05)
        parked = server.metric("elman_sessions_closed_total", reason="parked")
        resumed = server.metric("elman_sessions_resumed_total")
        left = {
            name: server.metric(f"elman_{name}")
            for name in ("sessions", "pending_elements", "state_slots", "named_sessions")
        }
        opened = server.metric("elman_sessions_opened_total")
        closed = server.metric("elman_sessions_closed_total")
        # What a connection takes is given back some time after its end.
        async with asyncio.timeout(30):
            while process.num_fds() >= 60 or process.num_threads() >= 40:
                await asyncio.sleep(0.05)
        assert server.terminate() == 0
        errors = [line for line in server.log if line.get("level") in ("warning", "error")]
    quarter = len(samples) // 4
    before, after = median(samples[quarter : 2 * quarter]), median(samples[-quarter:])
    print(f"\n{life.lived} sessions in {SECONDS:.0f} s, {parked:.0f} parked, {resumed:.0f} resumed")
    print(f"resident {before:.1f} MiB in the second quarter, {after:.1f} MiB in the last")
    print(quantiles("the first prediction after a silence", life.returned))
    print(f"{life.taken} times a client took a named session from another")
    assert set(left.values()) == {0}
    assert life.taken > 0
    assert opened == closed
    assert parked > 0
    assert resumed >= 0.5 * parked
    assert after - before < 10
    assert errors == []
    own = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not [task for task in own if task.get_name().startswith("elman")]
