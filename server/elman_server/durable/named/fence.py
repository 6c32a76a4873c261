"""The fence of a server's named sessions: the time until which the server may send answers.

Pure; times are arguments, in seconds of a clock which also counts while the server stands still.
"""

from math import inf

_UNCERTAIN_SECONDS = 0.5
"""Seconds by which a call to the store may exceed its time limit on a busy server."""


class Fence:
    """The validity of all claims of a server.

    A renewed claim is valid for a lease. With `go_on`, claims are also valid after a failed
    renewal. But the failure must be recent, and the server must not have stood still during the
    failed renewal.
    """

    def __init__(self, *, lease_seconds: float, timeout: float, now: float, go_on: bool) -> None:
        """`timeout`: time limit of a call to the store."""
        self._go_on = go_on
        self._lease_seconds = lease_seconds
        self._timeout = timeout
        self._open_until = now + lease_seconds
        self._claimed = self._renewing = inf
        """Time of the first claim request after the last renewal began; and of the first request
        covered only by the running renewal."""
        self._uncertain = False
        self.down = False
        """Whether the last renewal failed."""
        self.lends_from = 0.0
        """Time from which the store may be asked for claims of other owners' sessions. After an
        outage, the previous owners get a lease to renew their claims first."""

    def lapsed(self, now: float) -> bool:
        """Whether another owner may have a session by now, and no renewal has shown the owner
        since."""
        return now > self._open_until

    def claimed(self, asked: float) -> None:
        """Adds a claim requested at `asked`. The claim is valid for a lease from `asked`. A running
        renewal without the claim does not extend its validity."""
        self._claimed = min(self._claimed, asked)
        self._open_until = min(self._open_until, asked + self._lease_seconds)

    def renews(self) -> None:
        """Begins a renewal of all existing claims."""
        self._renewing, self._claimed = min(self._renewing, self._claimed), inf

    def renewed(self, begun: float, now: float) -> None:
        """Ends a successful renewal with the start time `begun`."""
        self._renewing = inf
        self._open_until = min(begun, self._claimed) + self._lease_seconds
        self._uncertain = False
        if self.down:
            self.down = False
            self.lends_from = now + self._lease_seconds

    def failed(self, begun: float, now: float) -> bool:
        """Ends a failed renewal with the start time `begun`. Returns whether the store counts as
        down.

        False means: the renewal took so long that the server must have stood still. The caller must
        then try again.
        """
        self._claimed, self._renewing = min(self._claimed, self._renewing), inf
        if now > begun + self._timeout + _UNCERTAIN_SECONDS and not self._uncertain:
            self._uncertain = True
            return False
        self._uncertain = False
        self.down = True
        if self._go_on:  # until the next attempt
            self._open_until = now + self._lease_seconds + self._timeout
        return True
