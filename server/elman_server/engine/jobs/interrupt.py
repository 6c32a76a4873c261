"""An interrupt: ends a run of the model after too long a time."""

from collections.abc import Callable
from math import inf


class Interrupt:
    """Interrupt of a run. The running thread calls `arm`. Any other thread may call `fire`; once is
    enough."""

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
        """Makes `stop` the function that ends the run. After an earlier `fire`, calls `stop` at
        once."""
        self._stop = stop
        if self.fired:
            stop()

    def fire(self, now: float) -> None:
        self.fired_at = now
        if self._stop is not None:
            self._stop()
