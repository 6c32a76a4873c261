"""How the calls of one store wait for one another, and how long for the store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from elman_server.store.interface import StoreUnavailable

_T = TypeVar("_T")


class Turns:
    """A few at a time, each with a limit of time for itself: however many there are, they wait for
    as long as those before them get on. One that fails fails those behind it, who would only find
    out the same one after the other."""

    def __init__(self, *, at_once: int, timeout: float) -> None:
        """`timeout` in seconds."""
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
                async with asyncio.timeout(self._timeout):
                    return await work()
            except TimeoutError:
                self._failures += 1
                raise StoreUnavailable(
                    f"the state store did not answer within {self._timeout:g} s"
                ) from None
            except StoreUnavailable:
                self._failures += 1
                raise
