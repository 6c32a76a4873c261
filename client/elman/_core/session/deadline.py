"""Time left for a call waiting for the server."""

from math import inf
from time import monotonic

from elman.errors import DeadlineExceeded


class Deadline:
    """Deadline of a call. Starts at the first wait for an answer, and restarts with each answer."""

    __slots__ = ("_at", "_owed", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._at = inf
        self._owed = 0

    def at(self, owed: int = True) -> float:
        """Returns the end of the wait, on the monotonic clock; inf for never.

        `owed` is the value yielded by an `Operation`: 0, or a number changing with each answer.
        Raises `DeadlineExceeded` after the deadline.
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
        """Returns the seconds until `at(owed)`; None for never."""
        at = self.at(owed)
        return None if at == inf else max(0, at - monotonic())
