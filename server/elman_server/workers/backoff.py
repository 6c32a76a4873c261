"""Backoff: delay before the restart of a dead worker."""

_FIRST = 0.5
_MOST = 30.0
_SETTLED = 60.0


class Backoff:
    """Restart delays of a single worker.

    The first restart is immediate. If the worker dies again before it has served for a minute, the
    delay is half a second and doubles with each further restart, up to 30 s.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def delay(self, served: float) -> float:
        """Returns the seconds to wait. `served` is the dead worker's serving time in seconds."""
        if served >= _SETTLED:
            self._next = 0.0
        delay = self._next
        self._next = min(_MOST, max(_FIRST, 2 * delay))
        return delay
