"""The fence of a server's named sessions: until when what they answered may be sent.

Pure; times are arguments, in seconds, of a clock that goes on while the server stands still.
"""

_UNCERTAIN_SECONDS = 0.5
"""For so much longer than its time limit a call to the store may take in a server that is busy."""


class Fence:
    """Claims that were renewed are good for a lease. If sessions `go_on` while the store is down,
    claims that could not be renewed are good, too; but only where the store was found to be down
    lately, by a server that did not stand still while it looked."""

    def __init__(self, *, lease: float, timeout: float, now: float, go_on: bool) -> None:
        """`timeout`: of a call to the store."""
        self._go_on = go_on
        self._lease = lease
        self._timeout = timeout
        self._open_until = now + lease
        self._uncertain = False
        self.down = False
        """Whether the store could not be used the last time."""
        self.lends_from = 0.0
        """From when on the store may be asked for what others may have: after an outage, those that
        had sessions renew them first."""

    def lapsed(self, now: float) -> bool:
        """Whether somebody else may have a session by now, and that is yet to be looked at."""
        return now > self._open_until

    def renewed(self, begun: float, now: float) -> None:
        """By a renewal that began then."""
        self._open_until = begun + self._lease
        self._uncertain = False
        if self.down:
            self.down = False
            self.lends_from = now + self._lease

    def failed(self, begun: float, now: float) -> bool:
        """A renewal that began then was not possible. False if that decides nothing, as it took so
        long that the server must have stood still meanwhile: then it is to be tried again."""
        if now > begun + self._timeout + _UNCERTAIN_SECONDS and not self._uncertain:
            self._uncertain = True
            return False
        self._uncertain = False
        self.down = True
        if self._go_on:  # until the next has been tried
            self._open_until = now + self._lease + self._timeout
        return True
