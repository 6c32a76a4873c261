"""How long a call may still wait for the server."""

from math import inf
from time import monotonic

from elman.errors import DeadlineExceeded


class Deadline:
    """Starts with the first wait in which the server owes something, and again with its answers."""

    __slots__ = ("_at", "_owed", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._at = inf
        self._owed = 0

    def at(self, owed: int = True) -> float:
        """When the wait must end, on the monotonic clock; inf for never.

        `owed` is what an `Operation` yielded: 0, or a number that answers change.
        Raises `DeadlineExceeded` if that has passed.
        """
        if not owed or self._timeout == inf:
            return inf
        now = monotonic()
        if self._owed != owed:
            self._owed = owed
            self._at = now + self._timeout
        elif self._at <= now:
            raise DeadlineExceeded(f"the server did not answer within {self._timeout:g} s")
        return self._at

    def remaining(self, owed: int = True) -> float | None:
        """The same in seconds from now; None for never."""
        at = self.at(owed)
        return None if at == inf else max(0, at - monotonic())
