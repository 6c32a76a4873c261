"""A lease of one named session on this server, from the claim to the release."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from elman_server.durable.store.interface import Claim
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Snapshot

TAKEN_OVER = Ending(
    reason=EndReason.TAKEN_OVER, message="another client has opened the session by its name"
)


class Sessions(Protocol):
    """The engine's operations on a session."""

    def close(self, session: Session, ending: Ending) -> None: ...
    def cut(self, session: Session, ending: Ending) -> None: ...
    def revoke(self, session: Session, ending: Ending) -> None: ...
    def snapshot(self, session: Session) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSession:
    """A session with a name, as the server opens it."""

    key: str
    owner: str
    """Id of the client's attachment to the session, in hex."""
    session: Session
    engine: Sessions
    seal: Callable[[Snapshot], bytes]
    floor: int = 0
    """The position of the stored checkpoint, if ahead of the session. Earlier snapshots are not
    saved."""


class Lease:
    """The claim and the unsaved snapshot of a named session. Implements `Keeping`: the engine
    reports snapshots and the session's end."""

    def __init__(
        self,
        named: NamedSession,
        *,
        claim: Claim | None,
        changed: Callable[["Lease"], None],
        now: float,
    ) -> None:
        """`claim`: None if the store was unavailable. `changed`: called after each snapshot and at
        the end."""
        self.key = named.key
        self.owner = named.owner
        self.claim = claim
        self.session = named.session
        self.over = False
        """Whether the session has ended."""
        self.lost = False
        """Whether another owner has the session."""
        self.unsaved: Snapshot | None = None
        """The last snapshot, until it is saved."""
        self.saved_at = self.taken_at = now
        """Seconds on the keeper's clock."""
        self.releasing = False
        """Whether a release is in progress. The claim may be outdated at any time from then on."""
        self._handed_over_at: float | None = None
        self._saved_position: int | None = None
        self._floor = named.floor
        self._engine = named.engine
        self._seal = named.seal
        self._sealed: tuple[Snapshot, bytes] | None = None
        self._changed = changed
        self._taken = named.session.position

    def snapshot(self, snapshot: Snapshot) -> None:
        self._taken = snapshot.position
        if snapshot.position >= self._floor:
            self.unsaved = snapshot
        self._changed(self)

    def ended(self) -> None:
        self.over = True
        self._changed(self)

    def request_snapshot(self, *, force: bool) -> None:
        """Requests a snapshot if there are new elements since the last snapshot, or in any case
        with `force`. `force` also removes the floor, because the store may have lost the
        checkpoint."""
        if force:
            self._floor = 0
        if force or self.session.position != self._taken:
            self._engine.snapshot(self.session)

    def seal(self, snapshot: Snapshot) -> bytes:
        """Returns the sealed snapshot: the checkpoint, and also the client's ticket. Seals each
        snapshot once."""
        if self._sealed is None or self._sealed[0] is not snapshot:
            self._sealed = snapshot, self._seal(snapshot)
        return self._sealed[1]

    def saved(self, snapshot: Snapshot, now: float) -> None:
        self.saved_at = now
        self._saved_position = snapshot.position
        if self.unsaved is snapshot:
            self.unsaved = self._sealed = None

    @property
    def done(self) -> bool:
        """Whether the session has ended and all its answers are in the stored checkpoint."""
        return self.over and self._saved_position == self.session.position

    def hand_over(self, now: float, *, patience: float) -> None:
        """Ends the session for the benefit of another owner. The first call lets the session answer
        all pushed elements. A call more than `patience` seconds later ends the session after the
        running step."""
        if self.over:
            return
        if self._handed_over_at is None:
            self._handed_over_at = now
            self._engine.close(self.session, TAKEN_OVER)
        elif now > self._handed_over_at + patience:
            self._engine.cut(self.session, TAKEN_OVER)

    def revoke(self) -> None:
        """Ends the session at once, because another owner has claimed the session. No further
        answers are sent or saved."""
        self.lost = True
        self._engine.revoke(self.session, TAKEN_OVER)
        self._changed(self)
