"""Turns of the event loop: long work runs in slices, and other work runs between two slices.

Each iteration of the loop runs one waiting slice, in order of arrival. So a new event waits for one
slice only, however many calls have long work and however long the work is.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import TypeVar

_SLICE_SECONDS = 0.25e-3

_Item = TypeVar("_Item")


class Turns:
    """Turns for long work, for one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._due = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def next(self) -> None:
        """Returns when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        self._plan(loop)
        await turn

    def slices(self) -> "Slices":
        """Begins a piece of long work."""
        return Slices(self)

    async def over(self, items: Iterable[_Item]) -> AsyncIterator[_Item]:
        """Yields the items, with turns for other work in between."""
        work = self.slices()
        for item in items:
            if work.over:
                await work.pause()
            yield item

    async def finish(self, work: Coroutine[None, None, None]) -> None:
        """Runs work to its end, even if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def finished(self) -> None:
        """Returns when all work given to `finish` is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._due:
            self._due = True
            loop.call_soon(self._give)

    def _give(self) -> None:
        self._due = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # the waiting task may have been cancelled
                turn.set_result(None)
                break
        if self._waiting:
            self._plan(asyncio.get_running_loop())


class Slices:
    """Slices of a piece of long work: reports when a slice is over, and waits for the next."""

    __slots__ = ("_end", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._end = time.perf_counter() + _SLICE_SECONDS

    @property
    def over(self) -> bool:
        """Whether the slice's time is used up."""
        return time.perf_counter() >= self._end

    async def pause(self) -> None:
        """Ends a slice. Returns when the next slice may begin."""
        await self._turns.next()
        self._end = time.perf_counter() + _SLICE_SECONDS
