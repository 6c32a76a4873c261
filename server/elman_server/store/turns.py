"""How the calls of one store wait for one another, and how long for the store."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from elman_server.store.interface import StoreUnavailable

_T = TypeVar("_T")

_SLICES = 10
"""In which a call's time is counted."""


class Turns:
    """A few at a time, each with a limit of time for itself: however many there are, they wait for
    as long as those before them get on. One that fails fails those behind it, who would only find
    out the same one after the other."""

    def __init__(self, *, at_once: int, timeout: float) -> None:
        """`timeout` in seconds, of those in which this process runs: one that stands still for
        longer must not take that for the store's silence."""
        self._free = asyncio.Semaphore(at_once)
        self._timeout = timeout
        self._failures = 0

    async def take(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Raises `StoreUnavailable`: as `work` does, when it takes too long, or at once when some
        other did meanwhile."""
        failures = self._failures
        async with self._free:
            if failures != self._failures:
                raise StoreUnavailable("the state store failed while others waited for it")
            try:
                return await self._in_time(work())
            except StoreUnavailable:
                self._failures += 1
                raise

    async def _in_time(self, work: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.ensure_future(work)
        try:
            for _ in range(_SLICES):
                # However long this process stands still, that is one slice, and what came
                # meanwhile is heard before the next.
                done, _ = await asyncio.wait({task}, timeout=self._timeout / _SLICES)
                if done:
                    return task.result()
        finally:
            await _cancelled(task)
        raise StoreUnavailable(f"the state store did not answer within {self._timeout:g} s")


async def _cancelled(task: "asyncio.Future[Any]") -> None:
    """Returns when it is over, whatever comes of it."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
