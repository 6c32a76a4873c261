"""Counts of tries to resume a session since its last progress."""

_REFUSALS = 8
"""Refusals in a row without a new server, per address, before the client gives up.

With N addresses tried at random, a given address stays untried in 8 N tries with a probability of 1
in 3,000. The number of addresses is the larger of two: the count from the target, and the number of
known server names plus 1.
"""


class Retries:
    """Counts for a session. An answer new to the session resets all counts."""

    __slots__ = ("crashes", "refused_by", "repeated", "since", "stuck", "tries")

    def __init__(self) -> None:
        self.stuck = 0
        """Losses of a server in a row without a newer ticket."""
        self.reset()

    def reset(self) -> None:
        """Resets the counts, after progress."""
        self.since: float | None = None
        """Time of the first loss since the last progress; None without a loss."""
        self.tries = 0
        """Losses of a server."""
        self.crashes = 0
        """Losses of a server that had answered on the same RPC."""
        self.refused_by: set[str] = set()
        """Servers that refused the session for good."""
        self.repeated = 0
        """Refusals since the last refusal by a new server."""

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
        """Whether each of at least `addresses` addresses was asked often enough."""
        known = len(self.refused_by)
        return self.repeated >= _REFUSALS * max(known + 1, addresses)
