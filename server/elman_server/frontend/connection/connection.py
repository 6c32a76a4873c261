"""A connection: the sessions of one Stream RPC. Pure: frames in, events out.

The transport's shell parses frames, asks whether a frame may be taken, gives it to the connection,
and sends the collected events. No protobuf, no event loop, no sockets.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import inf

from elman_server.engine.admission import Admission
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.ending import CANCELLED, Ending, EndReason
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.errors import (
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ShuttingDown,
)
from elman_server.frontend.connection.backlog import Backlog, ConnectionLimits
from elman_server.frontend.connection.frame import Frame, Open
from elman_server.frontend.connection.naming import NamedOpen
from elman_server.frontend.connection.opening import Opener
from elman_server.frontend.connection.pushing import Pushing
from elman_server.frontend.connection.slices import Pause
from elman_server.frontend.connection.withheld import NamedOutbox
from elman_server.frontend.status import shown
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import SESSIONS_RESUMED

_OLD = "the connection has reached its age; connect anew"
_FEW = 16
"""Most opens, closes and ticket requests in a frame taken at once, without slices."""
_MAX_ENTRIES = 65_536
"""Most entries of a frame: entries take memory until the frame is taken."""
_REFUSAL_NBYTES = 32
"""Bytes of a refusal on the wire without the message text, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request about a session was refused.

    Holds no exception: the frames of an exception's traceback keep the whole request in memory.
    """

    number: int
    error: type[ServerError]
    message: str
    retry_after: float = 0.0
    """Seconds until a retry, for `Overloaded`."""

    @classmethod
    def of(cls, number: int, error: ServerError) -> "Refusal":
        return cls(
            number=number,
            error=type(error),
            message=shown(str(error)),
            retry_after=error.retry_after if isinstance(error, Overloaded) else 0.0,
        )

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, roughly."""
        return _REFUSAL_NBYTES + len(self.message)


class Connection:
    def __init__(
        self,
        *,
        model: ServedModel,
        admission: Admission,
        opener: Opener,
        named_outbox: Callable[[], NamedOutbox],
        lookup: Callable[[Session, NamedOpen], None],
        limits: ConnectionLimits,
        notify: Callable[[], None],
    ) -> None:
        """`named_outbox` makes the outbox of named sessions; `lookup` starts the lookup of a named
        session's initial state. `notify` is called after a change of interest to the shell."""
        self._model = model
        self._engine = model.engine
        self._admission = admission
        self._opener = opener
        self._make_named_outbox = named_outbox
        self._lookup = lookup
        self._notify = notify
        self._outbox = Outbox(limit=limits.nbytes, notify=notify)
        self._sessions: dict[int, Session] = {}
        self.backlog = Backlog(
            model=model,
            admission=admission,
            limits=limits,
            outbox=self._outbox,
            sessions=self._sessions,
        )
        self._session_index = self._engine.session_index(self._outbox)
        self._session_indexes = [self._session_index]
        self._pushing = Pushing(
            model=model,
            sessions=self._sessions,
            session_indexes=self._session_indexes,
            window=limits.window,
            beyond_window=self.backlog.beyond_window,
            refuse=self._refuse_push,
        )
        self._last_number = -1
        self._last_before_frame: float = inf
        """The last session number before the frame being taken in slices; infinite without such a
        frame."""
        self.leaving = False
        """Whether the sessions are being handed over."""
        self._detached = False
        self.refusals: list[Refusal] = []
        """Refusals since the last `collect`."""

    @property
    def named(self) -> NamedOutbox | None:
        """Outbox of named sessions; None before the first."""
        return self.backlog.named

    @property
    def sessions(self) -> list[Session]:
        """Sessions, until their ends are collected."""
        return list(self._sessions.values())

    @property
    def empty(self) -> bool:
        return not self._sessions

    @property
    def closing(self) -> bool:
        """Whether no session is opened any more."""
        return self._admission.closed or self.leaving or self._detached

    @property
    def ended(self) -> ServerError:
        """Why the server opens no more sessions."""
        if self._admission.closed:
            return ShuttingDown("the server is stopping")
        if self.leaving:
            return ShuttingDown(_OLD)
        return ModelUnavailable(f"{self._model} was unloaded")

    def detach(self, model: ServedModel) -> None:
        """Stops opening sessions if the unloaded `model` is the connection's model.

        All sessions have ended by then, but the client may not know of every end yet.
        """
        if model is self._model:
            self._detached = True
            self._notify()

    def is_short(self, frame: Frame) -> bool:
        """Whether a frame is taken at once. Raises `InvalidRequest` for too many entries."""
        if frame.entries > _MAX_ENTRIES:
            raise InvalidRequest(
                f"a frame names sessions {frame.entries} times; allowed is {_MAX_ENTRIES}"
            )
        return frame.others <= _FEW and self._pushing.is_short(frame)

    def take(self, frame: Frame, arrival: float) -> None:
        """Takes a short frame. `arrival`: seconds on the engine's clock. Raises `InvalidRequest`
        for a malformed frame."""
        if frame.others:
            for message in frame.opens:
                self._open(message)
        if frame.push is not None:
            self._pushing.take(frame.push, arrival)
        if frame.others:
            for number in frame.tickets:
                self._ask_for_ticket(number)
            for number in frame.closes:
                self._close(number)

    def slices(self, frame: Frame, arrival: float) -> Generator[Pause, None, None]:
        """Takes a frame of any size, as `take` does. Yields before each part what the caller must
        wait for."""
        self._last_before_frame = self._last_number
        for message in frame.opens:
            yield Pause.ROOM
            self._open(message)
        if frame.push is not None:
            yield from self._pushing.slices(frame.push, arrival)
        for number in frame.tickets:
            yield Pause.ROOM
            self._ask_for_ticket(number)
        for number in frame.closes:
            yield Pause.ROOM
            self._close(number)
        self._last_before_frame = inf

    @property
    def mail_nbytes(self) -> int:
        """Bytes in memory of the events to collect, roughly. Without named sessions' events."""
        return self._outbox.nbytes

    def collect(self) -> tuple[Mail, list[Refusal]]:
        """Takes events and refusals, except events of named sessions. Both are taken together: a
        later refusal must not overtake the next event about the same session."""
        mail = self._engine.collect(self._outbox)
        refusals, self.refusals, self.backlog.refused_nbytes = self.refusals, [], 0
        for ended in mail.ended:
            self.forget(ended.number)
        return mail, refusals

    def forget(self, number: int) -> None:
        """Forgets a session whose end is sent."""
        del self._sessions[number]

    def lift_limits(self) -> None:
        """Stops holding sessions back, because no event is sent any more."""
        self._outbox.limit = inf
        if self.named is not None:
            self.named.abandon()
            self.named.outbox.limit = inf

    def drop(self, session: Session, error: ServerError | None = None) -> None:
        """Ends a session because the connection ends: with an error, or because it is gone."""
        ending = CANCELLED
        if error is not None:
            reason = EndReason.INVALID_REQUEST
            if isinstance(error, Overloaded):
                reason = EndReason.UNAVAILABLE
            ending = Ending(reason=reason, message=str(error))
        self._engine.drop(session, ending)

    def abandon(self) -> None:
        """Frees the remaining events, once all sessions are dropped."""
        self._engine.collect(self._outbox)
        if self.named is not None:
            self._engine.collect(self.named.outbox)

    def _open(self, message: Open) -> None:
        number = message.number
        if number <= self._last_number:
            self._refuse_used_number(number)
            return
        self._last_number = number
        if self.leaving:
            self._refuse(number, ShuttingDown(_OLD))
            return
        try:
            if self._detached:
                raise self.ended
            self._opener.admit()
            named = self._opener.named(message)
            outbox, session_index = self._outbox, self._session_index
            if named is not None:
                own = self._named_outbox()
                outbox, session_index = own.outbox, own.session_index
            request = self._opener.request(message, named, outbox)
            session = self._engine.open(request)
        except ServerError as error:
            self._refuse(number, error)
            return
        self._sessions[number] = session
        session_index.add(session)
        if named is not None:
            self._lookup(session, named)
        elif isinstance(request.initial_state, Snapshot):
            self._model.metrics.inc(SESSIONS_RESUMED)

    def _named_outbox(self) -> NamedOutbox:
        named = self.backlog.named
        if named is None:
            named = self.backlog.named = self._make_named_outbox()
            self._session_indexes.append(named.session_index)
        return named

    def _ask_for_ticket(self, number: int) -> None:
        """Requests a ticket. Ignored after the session's end."""
        session = self._sessions.get(number)
        if session is None:
            if number > self._last_number:
                text = f"ticket of session {number}, which was never opened on this RPC"
                self._refuse(number, InvalidRequest(text))
        elif self._model.tickets.available:
            self._engine.snapshot(session)
        else:
            snapshot = Snapshot(position=session.position, tensors=None)
            session.outbox.snapshot(session.snapshot_event(snapshot))
            self._notify()

    def _close(self, number: int) -> None:
        """Closes a session. Ignored after the session's end or an earlier close, because either may
        have crossed the client's close."""
        session = self._sessions.get(number)
        if session is not None:
            self._engine.close(session)
        elif number > self._last_number:
            text = f"close of session {number}, which was never opened on this RPC"
            self._refuse(number, InvalidRequest(text))

    def _refuse_used_number(self, number: int) -> None:
        text = f"session {number} is opened twice; numbers grow, the last was {self._last_number}"
        session = self._sessions.get(number)
        if session is None or session.ended is not None:
            self._refuse(number, InvalidRequest(text))
        else:
            self._engine.close(session, Ending(reason=EndReason.INVALID_REQUEST, message=text))

    def _refuse_push(self, number: int) -> None:
        """Refuses a push to an unknown session."""
        if number > self._last_number:
            text = f"push to session {number}, which was never opened on this RPC"
        elif number <= self._last_before_frame:
            text = f"push to session {number}, which has ended"
        else:  # opened by the frame being taken; the client already gets a reason
            return
        self._refuse(number, InvalidRequest(text))

    def _refuse(self, number: int, error: ServerError) -> None:
        refusal = Refusal.of(number, error)
        self.refusals.append(refusal)
        self.backlog.refused_nbytes += refusal.nbytes
