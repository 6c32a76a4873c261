"""How long a call may still wait for the server."""

from math import inf
from time import monotonic

from elman.errors import DeadlineExceeded


class Deadline:
    """Starts with the first wait in which the server owes something."""

    __slots__ = ("_at", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._at = inf

    def at(self, owed: bool = True) -> float:
        """When the wait must end, on the monotonic clock; inf for never.

        Raises `DeadlineExceeded` if that has passed.
        """
        if not owed or self._timeout == inf:
            return inf
        now = monotonic()
        if self._at == inf:
            self._at = now + self._timeout
        elif self._at <= now:
            raise DeadlineExceeded(f"the server did not answer within {self._timeout:g} s")
        return self._at

    def remaining(self, owed: bool = True) -> float | None:
        """The same in seconds from now; None for never."""
        at = self.at(owed)
        return None if at == inf else max(0, at - monotonic())
