"""The queue of sessions with a snapshot due. Used by the scheduler alone."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from elman_server.engine.outbox import Outbox
from elman_server.engine.snapshot import CaptureJob
from elman_server.engine.table import READ, SessionTable

if TYPE_CHECKING:
    from elman_server.engine.session import Session


class CaptureQueue:
    def __init__(self, table: SessionTable, *, hold: Callable[[Outbox], None]) -> None:
        """`hold` is called with an outbox that is full at the turn of a session."""
        self._table = table
        self._hold = hold
        self._line: deque[Session] = deque()

    def __bool__(self) -> bool:
        return bool(self._line)

    def add(self, session: "Session") -> None:
        """Queues a session. No other work is done for the session before the snapshot."""
        row = session.slot.index
        if self._table.place[row] != READ:
            self._table.place[row] = READ
            self._line.append(session)

    def add_again(self, sessions: "Iterable[Session]") -> None:
        """Queues sessions again after their outbox was full."""
        self._line.extend(sessions)

    def hasten(self, session: "Session") -> None:
        """Queues a session again in spite of a full outbox."""
        if session in session.outbox.unread:
            session.outbox.unread.remove(session)
            self._line.append(session)

    def take(self, most: int) -> CaptureJob | None:
        """Takes the next sessions, at most `most`; `None` if no session can be captured."""
        sessions: list[Session] = []
        while self._line and len(sessions) < most:
            session = self._line.popleft()
            if session.ended is not None:
                continue
            if session.outbox.full and not session.cut:
                # Otherwise a drain would hold the states of all sessions twice.
                session.outbox.unread.append(session)
                self._hold(session.outbox)
                continue
            session.reading = True
            sessions.append(session)
        if not sessions:
            return None
        return CaptureJob(sessions=sessions, slots=[session.slot.index for session in sessions])
