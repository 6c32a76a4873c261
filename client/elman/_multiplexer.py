"""All sessions that one client has on one model, on one Stream RPC.

Decides what goes into each frame and where the answers go; knows nothing of sockets, threads or
event loops. Whatever was pushed since the last `take` goes out together in the next frame, so while
a write is in flight the next one gathers. One thread at a time may call it or its sessions.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from typing import Protocol

from elman._codec import Payload
from elman._contexts import contexts_bytes
from elman._models import KnownModel
from elman._outputs import Layout
from elman._session import Opened, Session
from elman._session_options import SessionOptions
from elman._status import Stray, broken, closed_failure, left, lost_failure
from elman.errors import ElmanError, ServerError
from elman.v1 import inference_pb2 as pb

SESSION_BYTES = 24
"""What naming a session in a frame takes at most: its number, a count and their framing."""
TICKET_SECONDS = 1.0
"""What a server does to go on with sessions of another is what that did since their last tickets:
so much of its work at most, or a twentieth of the elements of `ticket_every`."""


class _Numbers(Protocol):
    """A repeated field of a message."""

    def append(self, number: int) -> None: ...


class Multiplexer:
    """`writable` is called when `take` may have something to give after it gave None.

    It is `finished` once its last session has ended; a finished one opens no more.
    """

    def __init__(
        self,
        known: KnownModel,
        *,
        writable: Callable[[], None],
        strays: Callable[[Session, Stray], bool] = lambda session, stray: False,
        succeeded: Callable[[], None] = lambda: None,
        max_frame_bytes: int = 1024 * 1024,
    ) -> None:
        """`strays` is told of each session that could go on elsewhere and answers whether it will;
        if not, it is lost. `succeeded`: the server gets on with one."""
        self.finished = False
        self.leaving = False
        """Whether sessions should rather be opened elsewhere."""
        self._strays = strays
        self._succeeded = succeeded
        self._model = known.model
        self._codec = known.codec
        self._writable = writable
        self._max_frame_bytes = max_frame_bytes
        self._started = False
        self._proven = False
        """Whether the server got on with any."""
        self._next_number = 1
        self._sessions: dict[int, Session] = {}
        self._layouts: dict[object, Layout] = {}
        self._opens: deque[Session] = deque()
        self._pushes: deque[Session] = deque()
        self._tickets: deque[Session] = deque()
        self._closes: deque[Session] = deque()

    def open(self, options: SessionOptions, wake: Callable[[], None]) -> Session:
        """A new session, not yet opened by the server. Its options are for this multiplexer's
        model."""
        layout = self._layouts.setdefault(options.layout.key, options.layout)
        session = Session(0, replace(options, layout=layout), self._codec, self, wake)
        self._enter(session)
        return session

    def adopt(self, session: Session) -> None:
        """A stray goes on here."""
        session.outbound = self
        self._enter(session)
        if session.pending_elements:
            self._pushes.append(session)
        if session.pending_elements or session.ticket_wanted_at is not None:
            # Of all that is pushed again: should this server go soon, too, it is not for the next.
            self._tickets.append(session)
        if session.closing:
            self._closes.append(session)

    def _enter(self, session: Session) -> None:
        session.number = self._next_number
        self._next_number += 1
        self._sessions[session.number] = session
        self._opens.append(session)
        self._writable()

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._pushes.append(session)
        self._writable()

    def closed(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._closes.append(session)
        self._writable()

    def ticket_wanted(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._tickets.append(session)
        self._writable()

    def close_sessions(self) -> None:
        """No more elements for any session."""
        for session in self._sessions.values():
            session.close()

    # -------------------------------------------------------------------------------------------
    # To the server

    def take(self) -> pb.StreamRequest | None:
        """The next frame, or None if there is nothing to say."""
        if self.finished:
            return None
        if not (self._opens or self._pushes or self._tickets or self._closes):
            return None
        frame = pb.StreamRequest()
        if not self._started:
            self._started = True
            frame.model = self._model.name
            frame.version = self._model.version
        budget = self._max_frame_bytes
        budget = self._take_opens(frame, budget)
        if not self._opens:
            budget = self._take_pushes(frame, budget)
            budget = self._take_last(self._tickets, frame.tickets, budget)
            self._take_last(self._closes, frame.closes, budget)
        return frame

    def _take_opens(self, frame: pb.StreamRequest, budget: int) -> int:
        while self._opens and budget > 0:
            session = self._opens[0]
            nbytes = len(session.ticket or b"") + contexts_bytes(session.contexts)
            if nbytes > budget and frame.opens:
                break
            self._opens.popleft()
            if session.outbound is not self:
                continue
            message = frame.opens.add(session=session.number, outputs=session.layout.requests)
            message.name, message.restart = session.name, session.restart
            message.ticket_every_elements = session.ticket_every
            if session.ticket_every:
                message.ticket_every_seconds = TICKET_SECONDS
                message.parkable = True
            if session.ticket:
                message.ticket = session.ticket
                if session.name:
                    message.replay = session.pending_elements
            else:
                message.contexts.extend(session.contexts)
                if session.opened:
                    message.fingerprint = self._model.fingerprint
            budget -= message.ByteSize() + SESSION_BYTES
        return budget

    def _take_pushes(self, frame: pb.StreamRequest, budget: int) -> int:
        numbers: list[int] = []
        counts: list[int] = []
        parts: list[Payload] = []
        width = self._codec.width
        # What is larger than a frame goes alone.
        while self._pushes and (budget > 0 or not (numbers or frame.opens)):
            session = self._pushes.popleft()
            if session.outbound is not self:
                continue
            count = session.take(max(1, budget // width), parts)
            if count:
                numbers.append(session.number)
                counts.append(count)
                budget -= count * width + SESSION_BYTES
            if session.pending_elements:
                self._pushes.appendleft(session)
                break
        if numbers:
            push = frame.push
            push.sessions.extend(numbers)
            if counts.count(counts[0]) != len(counts):
                push.counts.extend(counts)
            self._codec.place(push, self._codec.join(parts))
        return budget

    def _take_last(self, line: deque[Session], numbers: "_Numbers", budget: int) -> int:
        """What is said of sessions once all that was pushed to them is."""
        for _ in range(len(line)):
            session = line.popleft()
            if session.ended or session.outbound is not self:
                continue
            if session.pending_elements or budget <= 0:
                line.append(session)
            else:
                numbers.append(session.number)
                budget -= SESSION_BYTES
        return budget

    # -------------------------------------------------------------------------------------------
    # From the server

    def receive(self, response: pb.StreamResponse) -> None:
        """Routes one frame. Raises `ServerError` if it breaks the protocol, which the RPC cannot
        survive."""
        sessions = self._sessions
        for opened in response.opened:
            session = self._session(opened.session)
            session.accept(
                Opened(
                    id=opened.id,
                    window=opened.window,
                    position=opened.position,
                    ticket_every=opened.ticket_every_elements,
                )
            )
            session.wake()
            if session.stray_since is None:
                self._prove()
        for predictions in response.predictions:
            self._deliver(predictions)
        for ticket in response.tickets:
            self._session(ticket.session).keep_ticket(ticket.ticket, ticket.position)
        for closed in response.closed:
            # The server closes a number that has ended again if a push to it crossed its end.
            if closed.session in sessions or closed.session >= self._next_number:
                session = self._session(closed.session)
                del sessions[closed.session]
                self._closed(session, closed)
        if not sessions:
            self._finish()

    def fail(self, error: ElmanError, *, final: bool = False) -> None:
        """The RPC has ended: so have all its sessions, each with an error of its own, but for those
        that go on elsewhere. `final`: none does."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            stray = None if final else broken(error, session)
            if not stray or not self._strayed(session, stray):
                session.end(lost_failure(error, session, resuming=bool(stray)))
        self._finish()

    def _closed(self, session: Session, closed: pb.Closed) -> None:
        stray = left(closed, session)
        if stray is None:
            session.end(closed_failure(closed, session))
            return
        self.leaving |= stray.leaving
        if not self._strayed(session, stray):
            failure = closed_failure(closed, session)
            if session.opened:
                failure = lost_failure(stray.error, session, resuming=True)
            session.end(failure)

    def _strayed(self, session: Session, stray: Stray) -> bool:
        """Whether it goes on elsewhere, or has no need to."""
        if session.opened and session.closing and not session.in_flight:
            session.end(None)
            return True
        if not session.can_go_on:
            return False
        session.stray()
        return self._strays(session, stray)

    def _prove(self) -> None:
        if not self._proven:
            self._proven = True
            self._succeeded()

    def _finish(self) -> None:
        self.finished = True
        self._writable()

    def _deliver(self, message: pb.Predictions) -> None:
        numbers = message.sessions
        counts: Iterable[int] = message.counts
        total = sum(counts)
        if not total:
            counts, total = repeat(1, len(numbers)), len(numbers)
        if not total:
            return
        layout = self._session(numbers[0]).layout
        frame = layout.decode(message.outputs, total)
        row = 0
        try:
            for number, count, position in zip(
                numbers, counts, message.first_positions, strict=True
            ):
                session = self._session(number)
                if session.layout is not layout and session.layout.key != layout.key:
                    raise ServerError("the server packed sessions with different outputs together")
                session.deliver(frame, row, count, position)
                session.wake()
                row += count
                if not self._proven and session.stray_since is None:
                    self._prove()
        except ValueError:
            raise ServerError("the server sent predictions whose lists differ in length") from None

    def _session(self, number: int) -> Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise ServerError(f"the server spoke of session {number}, which is not open") from None
