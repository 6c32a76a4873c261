"""An interrupt: ends a run of the model that takes too long."""

from collections.abc import Callable
from math import inf


class Interrupt:
    """Interrupt of one run. The running thread arms it. Any other thread may fire it, once."""

    __slots__ = ("_stop", "deadline", "fired_at")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """Deadline of the run: seconds on the engine's clock."""
        self.fired_at = inf
        """Time of `fire` on the engine's clock. May be long after the deadline, for example when
        the whole process was paused."""
        self._stop: Callable[[], None] | None = None

    @property
    def fired(self) -> bool:
        return self.fired_at != inf

    def arm(self, stop: Callable[[], None]) -> None:
        """Makes `stop` the function that ends the run. Calls it at once if the interrupt was fired
        before."""
        self._stop = stop
        if self.fired:
            stop()

    def fire(self, now: float) -> None:
        self.fired_at = now
        if self._stop is not None:
            self._stop()
