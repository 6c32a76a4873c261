"""Parking: ends sessions that were idle for long. Their clients resume them when needed."""

import asyncio
from collections.abc import Callable
from math import inf

_GRAIN = 0.05
"""Largest delay in parking an idle session, as a share of `after`."""


class Parking:
    """Calls `park` when sessions may be idle for `after` seconds."""

    def __init__(
        self,
        *,
        after: float,
        longest_idle: Callable[[], float],
        park: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        """`longest_idle`: earliest start of a parkable session's idle time, inf without parkable
        sessions. `park` is called with a time, and parks sessions idle since then."""
        self._after = after
        self._longest_idle = longest_idle
        self._park = park
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self) -> None:
        """Schedules the next search for idle sessions, for when the first may be idle long
        enough. Does nothing if a search is scheduled."""
        if self._timer is not None or self._after == inf:
            return
        longest = self._longest_idle()
        if longest != inf:
            # A lower bound, so that one search serves many sessions.
            delay = max(self._after * _GRAIN, longest + self._after - self._clock())
            # A session still waiting for its first element may get it, and be idle, at any time.
            delay = min(delay, self._after)
            self._timer = asyncio.get_running_loop().call_later(delay, self._search)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _search(self) -> None:
        self._timer = None
        self._park(self._clock() - self._after)
        self.schedule()
