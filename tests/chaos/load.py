"""A load of many sessions through one client, each of which checks all that it gets."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

import numpy as np

from elman import aio
from elman_server.model.repository import BUNDLED
from tests.chaos.fleet import Fleet
from tests.chaos.shells import Client
from tests.oracle import Oracle

_KINDS = 16
"""Different sequences; many sessions have the same one."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz '"


@dataclass
class Played:
    """What one session got."""

    kind: int
    name: str
    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When, in seconds on the monotonic clock."""


class Load:
    """Sessions of `sentiment`, with one element in flight each, until `stop` is set."""

    def __init__(
        self,
        client: aio.Client | Client,
        sessions: int,
        *,
        seed: int,
        named: bool = False,
        path: Path = BUNDLED / "sentiment/1/model.onnx",
    ) -> None:
        """`path`: the file of the version that it must get."""
        rng = Random(seed)
        self._named = named
        self._path = path
        self._client = client
        self._texts = ["".join(rng.choices(_ALPHABET, k=997)) for _ in range(_KINDS)]
        self.played = [Played(number % _KINDS, f"session {number}") for number in range(sessions)]
        self.stop = asyncio.Event()
        self._begun = 0
        self._all_begun = asyncio.Event()

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._play(played)) for played in self.played]
        await self._wait(self._all_begun)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await asyncio.gather(*self._tasks)

    async def _wait(self, event: asyncio.Event) -> None:
        """Or until a session fails."""
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    async def run(self, seconds: float) -> None:
        """Lets it play; raises what a session meets."""
        timer = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, timer.set)
        await self._wait(timer)

    async def get_on(self) -> None:
        """Returns when each session has got another prediction; raises what a session meets."""
        before = [len(played.values) for played in self.played]
        while any(len(each.values) == n for each, n in zip(self.played, before, strict=True)):
            await self.run(0.02)

    async def _play(self, played: Played) -> None:
        text = self._texts[played.kind]
        name = played.name if self._named else None
        async with self._client.stream("sentiment", outputs="positive", session=name) as stream:
            while not self.stop.is_set():
                position = len(played.values)
                prediction = await stream.step(text[position % len(text)])
                assert prediction.position == position
                played.values.append(prediction["positive"])
                played.times.append(monotonic())
                if not position:
                    self._begun += 1
                    if self._begun == len(self.played):
                        self._all_begun.set()

    @property
    def answered(self) -> int:
        return sum(len(played.values) for played in self.played)

    async def outlive(self, fleet: Fleet, kills: int, rng: Random) -> list[float]:
        """Plays while the server that has the sessions is killed and started again, so many times;
        when, in seconds on the monotonic clock."""
        moments = []
        for _ in range(kills):
            await self.run(rng.uniform(0.2, 1.0))
            [number] = await asyncio.to_thread(fleet.busy)
            moments.append(monotonic())
            await asyncio.to_thread(fleet.kill, number)
            restarted = asyncio.create_task(asyncio.to_thread(fleet.start, number))
            await self.run(0.5)
            await restarted
        return moments

    async def check_kept(self) -> None:
        """That each named session is kept just where it ended."""
        oracle = Oracle(self._path)
        for played in self.played:
            text, position = self._texts[played.kind], len(played.values)
            async with self._client.stream(
                "sentiment", outputs="positive", session=played.name
            ) as stream:
                assert stream.position == position
                prediction = await stream.step(text[position % len(text)])
            played.values.append(prediction["positive"])
        for played in self.played[:: max(1, len(self.played) // 8)]:
            text = self._texts[played.kind]
            oracle.reset()
            alone = [oracle.step(text[i % len(text)]) for i in range(len(played.values))]
            assert played.values[-1] == alone[-1]["positive"].item()

    def check(self) -> None:
        """That each session got, to the bit, what it would have got alone."""
        oracle = Oracle(self._path)
        for kind, text in enumerate(self._texts):
            own = [played.values for played in self.played if played.kind == kind]
            longest = max(map(len, own), default=0)
            oracle.reset()
            alone = [oracle.step(text[i % len(text)])["positive"].item() for i in range(longest)]
            for values in own:
                assert values == alone[: len(values)]

    def pauses(self, moments: Sequence[float], *, within: float = 0.5) -> list[float]:
        """For each of these moments and each session: seconds from then, or from its last
        prediction after that, to the end of the longest pause."""
        found = []
        for moment in moments:
            for played in self.played:
                times = np.array(played.times)
                first = max(0, int(times.searchsorted(moment)) - 1)
                last = int(times.searchsorted(moment + within))
                near = np.maximum(times[first : last + 1], moment)
                if len(near) > 1:
                    found.append(float(np.diff(near).max()))
        return found

    def latencies(self, since: float, until: float) -> list[float]:
        """Seconds between two predictions of a session, as each pushes when it has got one."""
        found: list[float] = []
        for played in self.played:
            times = np.array(played.times)
            found += np.diff(times[(times >= since) & (times <= until)]).tolist()
        return found


def p99(seconds: Sequence[float]) -> float:
    return float(np.quantile(seconds, 0.99))


def quantiles(name: str, seconds: Sequence[float]) -> str:
    p50, p99, most = np.quantile(seconds, [0.5, 0.99, 1.0])
    return f"{name}: p50 {p50:.3f} s, p99 {p99:.3f} s, longest {most:.3f} s, of {len(seconds)}"
