"""What was tried to go on with a session since a server last got on with it."""

_REFUSALS = 8
"""Refusals in a row that no new server gave, for each address: of N addresses of a name, tried at
random, one stays untried in 8 N tries once in 3,000 times. There are as many addresses as the
target tells or, where that is more, as servers that are known by their names, and one."""


class Retries:
    """Counts of one session; all of them begin anew with an answer that it did not have."""

    __slots__ = ("crashes", "refused_by", "repeated", "since", "stuck", "tries")

    def __init__(self) -> None:
        self.stuck = 0
        """How often in a row it lost its server without a newer ticket than before."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """A server got on with it."""
        self.since: float | None = None
        """Since when none has; None while one does."""
        self.tries = 0
        """How often it lost its server."""
        self.crashes = 0
        """How often that was one that had answered, and broke off."""
        self.refused_by: set[str] = set()
        """Servers that would not have it, for good."""
        self.repeated = 0
        """Refusals since one came from a server that was new."""

    def lost(self, now: float, *, crashed: bool) -> None:
        if self.since is None:
            self.since = now
        self.tries += 1
        self.crashes += crashed

    def refused(self, server: str) -> None:
        if server in self.refused_by:
            self.repeated += 1
        else:
            self.refused_by.add(server)
            self.repeated = 0

    def all_refuse(self, addresses: int) -> bool:
        """Whether each of at least so many addresses was asked often enough."""
        known = len(self.refused_by)
        return self.repeated >= _REFUSALS * max(known + 1, addresses)
