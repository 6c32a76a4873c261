"""How the calls of one store wait for one another, and how long for the store."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from elman_server.durable.store.interface import StoreUnavailable

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

    async def take(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Raises `StoreUnavailable`: as `work` does, when it takes too long, or at once when some
        other did meanwhile."""
        failures = self._failures
        async with self._free:
            if failures != self._failures:
                raise StoreUnavailable("the state store failed while others waited for it")
            try:
                async with _Patience(self._timeout):
                    return await work()
            except TimeoutError:
                self._failures += 1
                raise StoreUnavailable(
                    f"the state store did not answer within {self._timeout:g} s"
                ) from None
            except StoreUnavailable:
                self._failures += 1
                raise


class _Patience:
    """Like `asyncio.timeout`, but counts slices: however long the process stands still, that is
    one of them, and what came meanwhile is heard before the next is over."""

    def __init__(self, seconds: float) -> None:
        self._slice = seconds / _SLICES
        self._left = _SLICES
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._slice, self._tick)
        await self._limit.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._slice, self._tick)
        else:
            self._limit.reschedule(self._loop.time())
