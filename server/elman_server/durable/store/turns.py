"""Scheduling and time limits of a store's calls."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from elman_server.durable.store.interface import StoreUnavailable

_T = TypeVar("_T")

_SLICES = 10
"""Time slices per call."""


class Turns:
    """A limit on concurrent calls, with a time limit for each running call.

    Any number of calls may wait, as long as the calls before them make progress. A failed call also
    fails all waiting calls, because they would only fail one after the other.
    """

    def __init__(self, *, at_once: int, timeout: float) -> None:
        """`timeout`: seconds during which this process runs. After a pause of the process, the
        store's silence during the pause must not count as a time-out."""
        self._free = asyncio.Semaphore(at_once)
        self._timeout = timeout
        self._failures = 0

    async def take(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Runs `work` after the calls before it. Raises `StoreUnavailable` if `work` does or takes
        too long, or if another call has failed during the wait."""
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
    """A time limit like `asyncio.timeout`, but counted in slices. A pause of the process counts as
    a single slice, however long the pause is. So answers received during the pause are read before
    the next slice ends."""

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
