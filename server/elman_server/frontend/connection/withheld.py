"""Answers of a connection's named sessions, withheld while the server's claims have lapsed.

A server with lapsed claims does not know whether another server already owns the named sessions.
Until the claims are renewed, the answers of named sessions wait in an outbox of their own. Sessions
without a name are not affected.
"""

from collections.abc import Callable

from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.engine import Engine
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.outboxes.outbox import Outbox


class Withheld:
    """Bytes that wait for the state store, summed over all connections."""

    def __init__(self, *, max_nbytes: float) -> None:
        self._max_nbytes = max_nbytes
        self._of: dict[NamedOutbox, int] = {}
        self._nbytes = 0

    def count(self, outbox: "NamedOutbox", nbytes: int) -> None:
        """Sets the number of waiting bytes of a connection."""
        self._nbytes += nbytes - self._of.pop(outbox, 0)
        if nbytes:
            self._of[outbox] = nbytes

    @property
    def full(self) -> bool:
        return self._nbytes >= self._max_nbytes


class NamedOutbox:
    """The outbox of a connection's named sessions, behind the lease keeper's fence."""

    def __init__(
        self,
        *,
        engine: Engine,
        lease_keeper: LeaseKeeper,
        limit: float,
        of_all: Withheld,
        notify: Callable[[], None],
    ) -> None:
        """`limit` is the outbox size, in bytes, at which sessions begin to wait. `notify` is called
        when answers may be ready."""
        self.outbox = Outbox(limit=limit, notify=notify)
        self.session_index = engine.session_index(self.outbox)
        self._engine = engine
        self._lease_keeper = lease_keeper
        self._notify = notify
        self._of_all = of_all

    @property
    def withheld(self) -> bool:
        """Whether the answers must not be sent now."""
        return self._lease_keeper.lapsed

    @property
    def full(self) -> bool:
        """Whether the connection must stop reading because of named sessions. Normally the
        connection's own outbox decides. While answers are withheld, the total over all connections
        decides; a connection without waiting bytes never stops."""
        if not self.withheld:
            return self.outbox.full
        return self.count() > 0 and self._of_all.full

    def count(self) -> int:
        """Returns the number of withheld bytes, and counts the bytes for all connections."""
        waiting = self.outbox.pending * self._engine.element_nbytes
        nbytes = self.outbox.nbytes + waiting if self.withheld else 0
        self._of_all.count(self, nbytes)
        return nbytes

    def collect(self) -> Mail:
        """Takes all answers, to be sent unless they become withheld meanwhile."""
        return self._engine.collect(self.outbox)

    def collect_refusals(self) -> Mail:
        """Takes the refusals of opens alone, which need not wait. `notify` is called when the
        answers are no longer withheld."""
        self._lease_keeper.watch(self._notify)
        return self.outbox.take_refusals()

    def abandon(self) -> None:
        """Stops notifications, and stops counting the connection's waiting bytes."""
        self._lease_keeper.unwatch(self._notify)
        self._of_all.count(self, 0)
