"""Futures resolved at a deadline, with a shared timer.

Nearly every wait ends long before the deadline, and a timer in the event loop for each wait would
cost more than the rest of the wait.
"""

import asyncio
from math import inf


class Alarm:
    """Deadlines for the waits of a pool's RPCs, on a single event loop with the clock
    `time.monotonic`."""

    __slots__ = ("_at", "_deadlines", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deadlines: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def waiter(self, at: float) -> asyncio.Future[None]:
        """Returns a future. At the time `at`, the alarm resolves the future unless done; inf for
        never."""
        waiter = self._loop.create_future()
        if at != inf:
            self._deadlines[waiter] = at
            if at < self._at:
                self._set(at)
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._deadlines.pop(waiter, None)

    def stop(self) -> None:
        """Cancels the timer, unless a wait is pending."""
        if self._timer and all(waiter.done() for waiter in self._deadlines):
            self._timer.cancel()
            self._at = inf

    def _set(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._at = inf
        now = self._loop.time()
        for waiter, at in self._deadlines.items():
            if at <= now and not waiter.done():
                waiter.set_result(None)
        left = [at for waiter, at in self._deadlines.items() if not waiter.done()]
        if left:
            self._set(min(left))
