"""All sessions of a client on a model, on one Stream RPC.

Decides the content of each frame and routes the answers. Independent of sockets, threads and event
loops. All elements pushed since the last `take` go into the next frame, so during a write the next
frame fills up. Only one thread at a time may call the multiplexer or a session of the multiplexer.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from typing import Protocol

from elman._core.models import KnownModel
from elman._core.recovery.orphan import Orphan, orphan_after_break, orphan_after_close
from elman._core.recovery.resuming import ResumeWindow
from elman._core.rpc.push_builder import SESSION_BYTES, PushBuilder
from elman._core.session.failures import closed_failure, lost_failure
from elman._core.session.operation import Failure
from elman._core.session.outbound import Opened
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._wire.contexts import contexts_bytes
from elman._wire.outputs import Layout
from elman.errors import ElmanError, ServerError
from elman.v1 import inference_pb2 as pb

_SMALL_BYTES = 4096
"""Largest element still added to a full frame, so a session opens with an element."""
TICKET_SECONDS = 1.0
"""Seconds between two tickets, as requested from the server.

A server resuming another server's session repeats the work since the last ticket. The request
bounds the work to so many seconds, or to a twentieth of `ticket_every` elements.
"""


class _Numbers(Protocol):
    """A repeated field of a message."""

    def append(self, number: int) -> None: ...


class Multiplexer:
    """Sessions of an RPC. After `take` returned None, `writable` is called when `take` may return a
    frame.

    The multiplexer is `finished` once the last session has ended, and opens no sessions afterwards.
    """

    def __init__(
        self,
        known: KnownModel,
        *,
        writable: Callable[[], None],
        orphans: Callable[[Session, Orphan], bool] = lambda session, orphan: False,
        succeeded: Callable[[], None] = lambda: None,
        got_on: Callable[[Session], None] = lambda session: None,
        max_frame_bytes: int = 1024 * 1024,
    ) -> None:
        """`orphans` is called with each session able to resume elsewhere, and returns whether it
        will.

        If `orphans` returns False, the session is lost. `succeeded` is called once, at the first
        progress of any session. `got_on` is called at the progress of each session.
        """
        self.finished = False
        self.leaving = False
        """Whether new sessions should be opened elsewhere."""
        self._heard = False
        """Whether the server has sent an answer."""
        self._orphans = orphans
        self._succeeded = succeeded
        self._got_on = got_on
        self._model = known.model
        self._codec = known.codec
        self._writable = writable
        self._max_frame_bytes = max_frame_bytes
        self._started = False
        self._proven = False
        """Whether any session has made progress."""
        self._last_number = 0
        self._sessions: dict[int, Session] = {}
        """Sessions known to the server, by number, until the server reports the end."""
        self._unopened: set[Session] = set()
        """Sessions unknown to the server."""
        self._layouts: dict[object, Layout] = {}
        self._opens: deque[Session] = deque()
        self._resuming: deque[tuple[int, Session]] = deque()
        """Sessions with elements to push again, with numbers; number 0 if not yet opened.

        A session adopted again, such as a parked session, has a new number; the old entry is stale.
        """
        self._window = ResumeWindow()
        self._pushes: deque[int] = deque()
        """Numbers of sessions with elements to push. A session adopted again has a new number."""
        self._tickets: deque[Session] = deque()
        self._closes: deque[Session] = deque()

    def open(self, options: SessionOptions, wake: Callable[[], None]) -> Session:
        """Creates a session, to be opened by the server later. `options` must be for the
        multiplexer's model."""
        layout = self._layouts.setdefault(options.layout.key, options.layout)
        session = Session(0, replace(options, layout=layout), self._codec, self, wake)
        self._opens.append(session)
        self._enter(session)
        return session

    def adopt(self, session: Session) -> None:
        """Takes over an orphan."""
        session.number = 0
        session.outbound = self
        self._window.enter(session)
        if session.resuming:
            self._resuming.append((0, session))
        else:
            self._opens.append(session)
        self._enter(session)
        if session.ticket_wanted_at is not None:
            self._tickets.append(session)
        if session.closing:
            self._closes.append(session)

    def _enter(self, session: Session) -> None:
        self._unopened.add(session)
        self._writable()

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`."""
        if session.number:
            self._pushes.append(session.number)
            self._writable()

    def closed(self, session: Session) -> None:
        """Part of `Outbound`."""
        if session in self._unopened and not (session.opened and session.in_flight):
            self._unopened.remove(session)
            session.end(None)
            self._finish_if_empty()
        else:
            self._closes.append(session)
            self._writable()

    def ticket_wanted(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._tickets.append(session)
        self._writable()

    def got_on(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._got_on(session)

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        for session in [*self._unopened, *self._sessions.values()]:
            session.close()

    def give_up(self, session: Session, failure: Failure) -> None:
        """Part of `Outbound`. Ends the session here, whatever the server does."""
        session.end(failure)
        if session in self._unopened:
            self._unopened.remove(session)
            self._finish_if_empty()
        else:
            self._closes.append(session)
            self._settled(session, None)
        self._writable()

    # -------------------------------------------------------------------------------------------
    # To the server

    def take(self) -> pb.StreamRequest | None:
        """Returns the next frame, or None if there is none to send."""
        if self.finished:
            return None
        frame = pb.StreamRequest()
        push = PushBuilder(self._codec)
        most = self._max_frame_bytes
        rest: list[int] = []
        # Fairness: openings get at most half of a frame while open sessions have elements to push.
        share = most // 2 if self._pushes else most
        left = self._take_resuming(frame, push, share, rest)
        left = self._take_opens(frame, push, left, rest)
        self._take_pushes(frame, push, left + most - share)
        self._pushes.extend(rest)
        push.place(frame)
        self._take_last(self._tickets, frame.tickets, most // 8)
        self._take_last(self._closes, frame.closes, most // 8)
        if not (frame.opens or push or frame.tickets or frame.closes):
            return None
        if not self._started:
            self._started = True
            frame.model = self._model.name
            frame.version = self._model.version
        return frame

    def _take_resuming(
        self, frame: pb.StreamRequest, push: PushBuilder, budget: int, rest: list[int]
    ) -> int:
        """Adds a piece of each resumed session's elements, while the resume window has room.

        A session with more pieces continues after its next ticket. Returns the budget left.
        """
        while self._resuming and budget > 0 and (room := self._window.room) > 0:
            number, session = self._resuming[0]
            if session.ended or session.outbound is not self or session.number != number:
                self._resuming.popleft()
                continue
            opening = 0
            if session in self._unopened:
                if self._given(session) > budget and (frame.opens or push):
                    return 0
                opening = self._open(frame, session)
            self._resuming.popleft()
            nbytes, most = opening, min(budget, room) - opening
            if not opening or most >= self._codec.width:
                nbytes += push.add(session, most)
            frame.tickets.append(session.number)
            self._window.sent(session, nbytes, session.sent)
            budget -= nbytes
            if session.pending_elements and not session.resuming:
                rest.append(session.number)
        return budget

    def _take_opens(
        self, frame: pb.StreamRequest, push: PushBuilder, budget: int, rest: list[int]
    ) -> int:
        """Opens sessions, each with its first elements, since a server may park silent sessions.

        Returns the budget left.
        """
        while self._opens and budget > 0:
            session = self._opens[0]
            if session.ended or session.outbound is not self:
                self._opens.popleft()
                continue
            fits = self._given(session) <= budget
            if not fits and (frame.opens or push):
                break
            self._opens.popleft()
            budget -= self._open(frame, session)
            if budget > 0 or (fits and self._codec.width <= _SMALL_BYTES):
                budget -= push.add(session, budget)
            if session.pending_elements:
                rest.append(session.number)
        return budget

    @staticmethod
    def _given(session: Session) -> int:
        """Bytes of ticket and contexts at an opening. May be nearly as large as a message may
        be."""
        return len(session.ticket or b"") + contexts_bytes(session.contexts)

    def _open(self, frame: pb.StreamRequest, session: Session) -> int:
        """Adds the opening of a session to a frame. Returns the size in bytes."""
        self._unopened.remove(session)
        self._last_number += 1
        session.number = self._last_number
        self._sessions[session.number] = session
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
        return message.ByteSize() + SESSION_BYTES

    def _take_pushes(self, frame: pb.StreamRequest, push: PushBuilder, budget: int) -> None:
        # An element larger than a frame goes alone.
        pushes, add = self._pushes, push.add
        while pushes and (budget > 0 or not (push or frame.opens)):
            number = pushes.popleft()
            session = self._sessions.get(number)
            if session is None:
                continue
            budget -= add(session, budget)
            if session.pending_elements:
                pushes.appendleft(number)
                break

    def _take_last(self, line: deque[Session], numbers: "_Numbers", budget: int) -> None:
        """Adds ticket requests or closes for sessions with all elements sent."""
        for _ in range(len(line)):
            session = line.popleft()
            if session.outbound is not self or self._has_ended(session):
                continue
            if session.pending_elements or session in self._unopened or budget <= 0:
                line.append(session)
            else:
                numbers.append(session.number)
                budget -= SESSION_BYTES

    def _has_ended(self, session: Session) -> bool:
        """Whether the session has ended at the server too."""
        return session.ended and self._sessions.get(session.number) is not session

    # -------------------------------------------------------------------------------------------
    # From the server

    def receive(self, response: pb.StreamResponse) -> None:
        """Routes one frame. Raises `ServerError` for a breach of the protocol; the RPC must end
        then."""
        sessions = self._sessions
        self._heard = True
        for opened in response.opened:
            session = self._session(opened.session)
            if session.ended:
                continue
            session.accept(
                Opened(
                    id=opened.id,
                    window=opened.window,
                    position=opened.position,
                    ticket_every=opened.ticket_every_elements,
                )
            )
            session.wake()
        for predictions in response.predictions:
            self._deliver(predictions)
        for ticket in response.tickets:
            session = self._session(ticket.session)
            if not session.ended:
                session.keep_ticket(ticket.ticket, ticket.position)
                self._settled(session, ticket.position if ticket.ticket else None)
        for closed in response.closed:
            # After a push crosses a session's end, the server closes the same number a second time.
            if closed.session in sessions or closed.session > self._last_number:
                session = self._session(closed.session)
                del sessions[closed.session]
                self._settled(session, None)
                if not session.ended:
                    self._closed(session, closed)
        self._finish_if_empty()

    def fail(self, error: ElmanError, *, final: bool = False) -> None:
        """Handles the end of the RPC: each session becomes an orphan, or ends with its own error.

        If `final`, no session becomes an orphan.
        """
        sessions = [*self._sessions.values(), *self._unopened]
        self._sessions.clear()
        self._unopened.clear()
        for session in sessions:
            if session.ended:
                continue
            orphan = None if final else orphan_after_break(error, session, crashed=self._heard)
            if not orphan or not self._orphaned(session, orphan):
                session.end(lost_failure(error, session, resuming=bool(orphan)))
        self._finish()

    def _closed(self, session: Session, closed: pb.Closed) -> None:
        orphan = orphan_after_close(closed, session)
        if orphan is None:
            session.end(closed_failure(closed, session))
            return
        self.leaving |= orphan.leaving
        if not self._orphaned(session, orphan):
            failure = closed_failure(closed, session)
            if session.opened:
                failure = lost_failure(orphan.error, session, resuming=True)
            session.end(failure)

    def _orphaned(self, session: Session, orphan: Orphan) -> bool:
        """Whether the session resumes elsewhere, or is already complete."""
        if session.closing and not session.in_flight:
            session.end(None)
            return True
        if not session.can_go_on:
            return False
        session.orphan()
        return self._orphans(session, orphan)

    def _settled(self, session: Session, position: int | None) -> None:
        """Removes a piece from the resume window: its ticket has come, or no ticket will come."""
        if self._window.settle(session, position):
            if session.resuming and not session.ended:
                self._resuming.append((session.number, session))
            self._writable()

    def _prove(self) -> None:
        if not self._proven:
            self._proven = True
            self._succeeded()

    def _finish_if_empty(self) -> None:
        if not self._sessions and not self._unopened:
            self._finish()

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
                if session.ended:
                    row += count
                    continue
                if session.layout is not layout and session.layout.key != layout.key:
                    raise ServerError("the server packed sessions with different outputs together")
                session.deliver(frame, row, count, position)
                session.wake()
                row += count
                if not self._proven and session.retries.since is None:
                    self._prove()
        except ValueError:
            raise ServerError("the server sent predictions whose lists differ in length") from None

    def _session(self, number: int) -> Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise ServerError(f"the server spoke of session {number}, which is not open") from None
