"""An interrupt: what ends a run of the model that takes too long."""

from collections.abc import Callable
from math import inf


class Interrupt:
    """Of one run. The thread that runs arms it, any other may fire it; once is enough."""

    __slots__ = ("_stop", "deadline", "fired_at")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the engine's clock: the time from which on the run takes too long."""
        self.fired_at = inf
        """On that clock, when it was fired. That may be long after the deadline, as when the whole
        process was paused."""
        self._stop: Callable[[], None] | None = None

    @property
    def fired(self) -> bool:
        return self.fired_at != inf

    def arm(self, stop: Callable[[], None]) -> None:
        """From now on `stop` ends the run; it is called at once if that was asked for before."""
        self._stop = stop
        if self.fired:
            stop()

    def fire(self, now: float) -> None:
        self.fired_at = now
        if self._stop is not None:
            self._stop()
