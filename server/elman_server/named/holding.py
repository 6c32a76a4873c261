"""A holding: one named session that this server has, from its claim to its release."""

from collections.abc import Callable
from typing import Protocol

from elman_server.engine.session import Ending, EndReason, Session
from elman_server.engine.snapshot import Snapshot
from elman_server.store.interface import Claim

TAKEN_OVER = Ending(
    reason=EndReason.TAKEN_OVER, message="another client has opened the session by its name"
)


class Sessions(Protocol):
    """What an engine does with a session."""

    def close(self, session: Session, ending: Ending) -> None: ...
    def revoke(self, session: Session, ending: Ending) -> None: ...
    def snapshot(self, session: Session) -> None: ...


class Holding:
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
        changed: Callable[["Holding"], None],
        now: float,
    ) -> None:
        """`claim`: None while the store could not be asked. `changed` is told of snapshots and of
        the end."""
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
        self._engine = engine
        self._seal = seal
        self._sealed: tuple[Snapshot, bytes] | None = None
        self._changed = changed
        self._taken = session.position

    def snapshot(self, snapshot: Snapshot) -> None:
        self.unsaved = snapshot
        self._taken = snapshot.position
        self._changed(self)

    def ended(self) -> None:
        self.over = True
        self._changed(self)

    def ask(self, *, anyhow: bool) -> None:
        """Has a snapshot taken if there are elements since the last; or `anyhow`."""
        if anyhow or self.session.position != self._taken:
            self._engine.snapshot(self.session)

    def seal(self, snapshot: Snapshot) -> bytes:
        """Its checkpoint, which is its client's ticket as well: sealed once for both."""
        if self._sealed is None or self._sealed[0] is not snapshot:
            self._sealed = snapshot, self._seal(snapshot)
        return self._sealed[1]

    def saved(self, snapshot: Snapshot, now: float) -> None:
        self.saved_at = now
        if self.unsaved is snapshot:
            self.unsaved = self._sealed = None

    def give_up(self) -> None:
        """Has the session end once all that was pushed is answered, for somebody else to have."""
        if not self.over:
            self._engine.close(self.session, TAKEN_OVER)

    def revoke(self) -> None:
        """Somebody else has it: nothing more is answered or saved."""
        self.lost = True
        if not self.over:
            self._engine.revoke(self.session, TAKEN_OVER)
        self._changed(self)
