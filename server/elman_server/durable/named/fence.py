"""The fence of a server's named sessions: until when what they answered may be sent.

Pure; times are arguments, in seconds, of a clock that goes on while the server stands still.
"""

from math import inf

_UNCERTAIN_SECONDS = 0.5
"""For so much longer than its time limit a call to the store may take in a server that is busy."""


class Fence:
    """Claims that were renewed are good for a lease. If sessions `go_on` while the store is down,
    claims that could not be renewed are good, too; but only where the store was found to be down
    lately, by a server that did not stand still while it looked."""

    def __init__(self, *, lease_seconds: float, timeout: float, now: float, go_on: bool) -> None:
        """`timeout`: of a call to the store."""
        self._go_on = go_on
        self._lease_seconds = lease_seconds
        self._timeout = timeout
        self._open_until = now + lease_seconds
        self._claimed = self._renewing = inf
        """When the first claim was asked for that no renewal has had yet; and that only the one has
        which is under way."""
        self._uncertain = False
        self.down = False
        """Whether the store could not be used the last time."""
        self.lends_from = 0.0
        """From when on the store may be asked for what others may have: after an outage, those that
        had sessions renew them first."""

    def lapsed(self, now: float) -> bool:
        """Whether somebody else may have a session by now, and that is yet to be looked at."""
        return now > self._open_until

    def claimed(self, asked: float) -> None:
        """One more claim was got, which was asked for then: it is good for a lease from there on,
        whatever becomes of a renewal that is under way without it."""
        self._claimed = min(self._claimed, asked)
        self._open_until = min(self._open_until, asked + self._lease_seconds)

    def renews(self) -> None:
        """A renewal begins, of all claims that were got before."""
        self._renewing, self._claimed = min(self._renewing, self._claimed), inf

    def renewed(self, begun: float, now: float) -> None:
        """By a renewal that began then."""
        self._renewing = inf
        self._open_until = min(begun, self._claimed) + self._lease_seconds
        self._uncertain = False
        if self.down:
            self.down = False
            self.lends_from = now + self._lease_seconds

    def failed(self, begun: float, now: float) -> bool:
        """A renewal that began then was not possible. False if that decides nothing, as it took so
        long that the server must have stood still meanwhile: then it is to be tried again."""
        self._claimed, self._renewing = min(self._claimed, self._renewing), inf
        if now > begun + self._timeout + _UNCERTAIN_SECONDS and not self._uncertain:
            self._uncertain = True
            return False
        self._uncertain = False
        self.down = True
        if self._go_on:  # until the next has been tried
            self._open_until = now + self._lease_seconds + self._timeout
        return True
