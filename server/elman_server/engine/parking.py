"""Parking: ends sessions that were idle for long. Their clients resume them when needed."""

import asyncio
from collections.abc import Callable
from math import inf

_GRAIN = 0.05
"""Largest delay in parking an idle session, as a share of `after`."""

Park = Callable[[float], None]
"""Parks the sessions idle since a time."""


class Parking:
    """Searches for sessions that were idle for `after` seconds, when there may be some."""

    def __init__(
        self, *, after: float, longest_idle: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        """`longest_idle`: earliest start of a parkable session's idle time, inf without parkable
        sessions."""
        self._after = after
        self._longest_idle = longest_idle
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self, park: Park) -> None:
        """Schedules the next search for idle sessions, for when the first may be idle long
        enough. Does nothing if a search is scheduled. Only the timer refers to `park`: a stopped
        engine is no part of a reference cycle, and is freed at once."""
        if self._timer is not None or self._after == inf:
            return
        longest = self._longest_idle()
        if longest != inf:
            # A lower bound, so that one search serves many sessions.
            delay = max(self._after * _GRAIN, longest + self._after - self._clock())
            # A session still waiting for its first element may get it, and be idle, at any time.
            delay = min(delay, self._after)
            self._timer = asyncio.get_running_loop().call_later(delay, self._search, park)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _search(self, park: Park) -> None:
        self._timer = None
        park(self._clock() - self._after)
        self.schedule(park)
