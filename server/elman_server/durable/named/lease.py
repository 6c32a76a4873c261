"""A holding: one named session that this server has, from its claim to its release."""

from collections.abc import Callable
from typing import Protocol

from elman_server.durable.store.interface import Claim
from elman_server.engine.session import Ending, EndReason, Session
from elman_server.engine.snapshot import Snapshot

TAKEN_OVER = Ending(
    reason=EndReason.TAKEN_OVER, message="another client has opened the session by its name"
)


class Sessions(Protocol):
    """What an engine does with a session."""

    def close(self, session: Session, ending: Ending) -> None: ...
    def cut(self, session: Session, ending: Ending) -> None: ...
    def revoke(self, session: Session, ending: Ending) -> None: ...
    def snapshot(self, session: Session) -> None: ...


class Lease:
    """A `Keeping`: its engine tells it of snapshots and of the session's end."""

    def __init__(
        self,
        *,
        key: str,
        owner: str,
        claim: Claim | None,
        session: Session,
        engine: Sessions,
        seal: Callable[[Snapshot], bytes],
        changed: Callable[["Lease"], None],
        now: float,
        floor: int = 0,
    ) -> None:
        """`claim`: None while the store could not be asked. `changed` is told of snapshots and of
        the end. `floor`: the position of what is kept, if that is further than the session."""
        self.key = key
        self.owner = owner
        self.claim = claim
        self.session = session
        self.over = False
        """Whether the session has ended."""
        self.lost = False
        """Whether somebody else has it."""
        self.unsaved: Snapshot | None = None
        """The last one, until it is saved."""
        self.saved_at = self.taken_at = now
        """Seconds on the keeper's clock."""
        self.letting_go = False
        """Whether it is being released: then its claim may be nobody's at any time."""
        self._given_up_at: float | None = None
        self._saved_position: int | None = None
        self._floor = floor
        self._engine = engine
        self._seal = seal
        self._sealed: tuple[Snapshot, bytes] | None = None
        self._changed = changed
        self._taken = session.position

    def snapshot(self, snapshot: Snapshot) -> None:
        self._taken = snapshot.position
        if snapshot.position >= self._floor:
            self.unsaved = snapshot
        self._changed(self)

    def ended(self) -> None:
        self.over = True
        self._changed(self)

    def ask(self, *, anyhow: bool) -> None:
        """Has a snapshot taken if there are elements since the last; or `anyhow`, as nothing may be
        kept any more."""
        if anyhow:
            self._floor = 0
        if anyhow or self.session.position != self._taken:
            self._engine.snapshot(self.session)

    def seal(self, snapshot: Snapshot) -> bytes:
        """Its checkpoint, which is its client's ticket as well: sealed once for both."""
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
        """Whether whoever has it next goes on after all that it answered."""
        return self.over and self._saved_position == self.session.position

    def give_up(self, now: float, *, patience: float) -> None:
        """Has the session end for somebody else to have: once all that was pushed is answered or,
        when it is asked for that again after `patience`, as soon as what runs is."""
        if self.over:
            return
        if self._given_up_at is None:
            self._given_up_at = now
            self._engine.close(self.session, TAKEN_OVER)
        elif now > self._given_up_at + patience:
            self._engine.cut(self.session, TAKEN_OVER)

    def revoke(self) -> None:
        """Somebody else has it: nothing more is told of it or saved."""
        self.lost = True
        self._engine.revoke(self.session, TAKEN_OVER)
        self._changed(self)
