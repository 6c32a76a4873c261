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

    def remaining(self, owed: bool = True) -> float | None:
        """Seconds; None for any number. Raises `DeadlineExceeded` when none are left."""
        if not owed or self._timeout == inf:
            return None
        now = monotonic()
        if self._at == inf:
            self._at = now + self._timeout
        left = self._at - now
        if left <= 0:
            raise DeadlineExceeded(f"the server did not answer within {self._timeout:g} s")
        return left
