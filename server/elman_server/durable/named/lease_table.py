"""The leases of a server, by key, from the opening of a session to its last checkpoint."""

from collections.abc import Callable, Iterator

from elman_server.durable.named.checkpoint_writer import CheckpointWriter
from elman_server.durable.named.lease import Lease, NamedSession
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.interface import Claim, StateStore
from elman_server.errors import SessionTaken
from elman_server.telemetry.metrics import LabelledMetrics


class LeaseTable:
    """The open sessions, one for each key, and the writer of their checkpoints. Sessions which have
    ended stay with the writer until they are saved and released."""

    def __init__(
        self, store: StateStore, terms: Terms, metrics: LabelledMetrics, clock: Callable[[], float]
    ) -> None:
        self.writer = CheckpointWriter(
            store, metrics, ttl=terms.ttl, clock=clock, refused=self.refuse
        )
        self._terms = terms
        self._clock = clock
        self._open: dict[str, Lease] = {}

    def __len__(self) -> int:
        """The number of open sessions."""
        return len(self._open)

    def __iter__(self) -> Iterator[Lease]:
        """The leases of all sessions, open or ended."""
        yield from self._open.values()
        yield from self.writer.ended

    def open_leases(self) -> list[Lease]:
        return list(self._open.values())

    def get(self, key: str) -> Lease | None:
        """Returns the lease of a key's open session."""
        return self._open.get(key)

    def hold(self, claim: Claim | None, named: NamedSession) -> Lease:
        """Adds a session, in place of the key's older session. `claim`: None if the store was
        unavailable. Raises `SessionTaken` if a later claim holds the session already."""
        older = self._open.get(named.key)
        if older is not None:
            if claim and older.claim and older.claim.generation > claim.generation:
                raise SessionTaken("another client has opened the session by its name meanwhile")
            older.revoke()
        lease = Lease(
            named, claim=claim and claim.emptied(), changed=self.update, now=self._clock()
        )
        self._open[named.key] = lease
        return lease

    def update(self, lease: Lease) -> None:
        """Handles a change of a lease: a new snapshot, a late claim, or the session's end."""
        lease.taken_at = self._clock()
        if (lease.over or lease.lost) and self._open.get(lease.key) is lease:
            del self._open[lease.key]
        if lease.lost:
            self.writer.forget(lease)
        elif lease.over:
            self.writer.add_ended(lease)
        elif self._clock() >= lease.saved_at + self._terms.interval / 2:
            self.writer.add(lease)  # else the next request is soon enough
            self.writer.wake()

    def refuse(self, lease: Lease, claim: Claim) -> None:
        """Handles a claim refused by the store: the store knows a later claim, or the claim was
        released."""
        if lease.claim != claim or lease.releasing:
            return
        if lease.done:  # the next owner continues after the session's last answer
            self.writer.forget(lease)
        else:
            lease.revoke()

    def hand_over(self, lease: Lease) -> None:
        """Ends a session for another owner, after its answers."""
        lease.hand_over(self._clock(), patience=self._terms.lease_seconds)
