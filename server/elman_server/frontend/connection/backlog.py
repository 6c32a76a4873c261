"""The backlog of a connection: what waits, and whether more frames may be read and taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elman_server.engine.admission import Admission
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.session import Session
from elman_server.frontend.connection.frame import Frame
from elman_server.frontend.connection.withheld import NamedOutbox
from elman_server.serving.served import ServedModel

_LEAST_PENDING = 65_536
"""Threshold: at this number of waiting elements, a large frame is not taken further, unless all
windows together allow more elements. Large enough to keep the model busy meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    window: int
    """Unanswered elements of a session, beyond which no frame is read."""
    nbytes: int
    """Bytes of waiting events, beyond which no frame is read."""


class Backlog:
    def __init__(
        self,
        *,
        model: ServedModel,
        admission: Admission,
        limits: ConnectionLimits,
        outbox: Outbox,
        sessions: Mapping[int, Session],
    ) -> None:
        """`outbox` is that of sessions without a name; `sessions` are all, and may change."""
        self._model = model
        self._admission = admission
        self._limits = limits
        self._outbox = outbox
        self._sessions = sessions
        self.named: NamedOutbox | None = None
        """Outbox of named sessions; None before the first."""
        self.beyond_window: set[Session] = set()
        """Sessions that may have more unanswered elements than the window."""
        self.refused_nbytes = 0
        """Bytes of waiting refusals."""

    @property
    def nbytes(self) -> int:
        """Bytes of waiting elements and events, roughly."""
        outboxes = self._outboxes
        pending = sum(outbox.pending for outbox in outboxes)
        events = sum(outbox.nbytes for outbox in outboxes)
        return pending * self._model.engine.element_nbytes + events

    def fits(self, frame: Frame) -> bool:
        """Whether a frame can be taken. A crowded server still takes a small push of a connection
        without waiting elements, so bulk traffic does not block single elements."""
        if not self._admission.crowded:
            return True
        pending = any(outbox.pending for outbox in self._outboxes)
        return not pending and self._model.codec.count(frame.payload) <= self._limits.window

    @property
    def has_room(self) -> bool:
        """Whether more of a large frame can be taken."""
        most = max(_LEAST_PENDING, self._limits.window * len(self._sessions))
        return not (
            self.refused_nbytes > self._limits.nbytes
            or self._is_full
            or any(outbox.pending >= most for outbox in self._outboxes)
            or self._is_crowded
        )

    @property
    def wants_more(self) -> bool:
        """Whether the next frame may be read."""
        contexts_nbytes = self._outbox.contexts_nbytes
        # Contexts of named sessions wait for the state store. They delay other sessions of the
        # connection only when contexts crowd the whole server.
        named_nbytes = 0 if self.named is None else self.named.outbox.contexts_nbytes
        return not (
            self._is_beyond_window()
            or self._is_full
            or contexts_nbytes > self._limits.nbytes
            or ((contexts_nbytes or named_nbytes) and self._admission.crowded_by_contexts)
            or self.refused_nbytes > self._limits.nbytes
            or self._is_crowded
        )

    @property
    def _outboxes(self) -> Sequence[Outbox]:
        """Outboxes with an influence on how much is read. While named sessions wait for the state
        store, the outbox of named sessions is left out: windows limit the elements already, and the
        connection's other sessions must not be blocked."""
        if self.named is None or self.named.withheld:
            return (self._outbox,)
        return (self._outbox, self.named.outbox)

    @property
    def _is_full(self) -> bool:
        """Whether too many bytes of events wait to be sent."""
        return self._outbox.full or (self.named is not None and self.named.full)

    @property
    def _is_crowded(self) -> bool:
        """Whether the server is crowded, in part by waiting elements of the connection."""
        for outbox in self._outboxes:
            if outbox.pending:
                return self._admission.crowded
        return False

    def _is_beyond_window(self) -> bool:
        """Whether a session has more unanswered elements than the window. Stops at the first such
        session, because the check runs after each step."""
        while self.beyond_window:
            session = self.beyond_window.pop()
            if session.ended is None and session.unanswered > self._limits.window:
                self.beyond_window.add(session)
                return True
        return False
