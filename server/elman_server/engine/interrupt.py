"""An interrupt: what ends a run of the model that takes too long."""

from collections.abc import Callable


class Interrupt:
    """Of one run. The thread that runs arms it, any other may fire it; once is enough."""

    __slots__ = ("_stop", "deadline", "fired")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the engine's clock: the time from which on the run takes too long."""
        self.fired = False
        self._stop: Callable[[], None] | None = None

    def arm(self, stop: Callable[[], None]) -> None:
        """From now on `stop` ends the run; it is called at once if that was asked for before."""
        self._stop = stop
        if self.fired:
            stop()

    def fire(self) -> None:
        self.fired = True
        if self._stop is not None:
            self._stop()
