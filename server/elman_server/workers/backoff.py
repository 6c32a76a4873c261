"""How long a worker that died is not started again."""

_FIRST = 0.5
_MOST = 30.0
_SETTLED = 60.0


class Backoff:
    """One worker's. The first time it is started again at once. If it dies again before it has
    served for a minute, the wait is half a second and doubles from time to time, up to 30 s."""

    def __init__(self) -> None:
        self._next = 0.0

    def delay(self, served: float) -> float:
        """Seconds to wait. `served`: for how many the one that died had served."""
        if served >= _SETTLED:
            self._next = 0.0
        delay = self._next
        self._next = min(_MOST, max(_FIRST, 2 * delay))
        return delay
