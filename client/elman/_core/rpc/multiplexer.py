"""All sessions of a client on a model, on one Stream RPC.

Routes pushes into frames, and answers to sessions. Independent of sockets, threads and event loops.
All elements pushed since the last `take` go into the next frame, so during a write the next frame
fills up. Only one thread at a time may call the multiplexer or a session of the multiplexer.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat

from elman._core.models import KnownModel
from elman._core.recovery.orphan import Orphan, orphan_after_break, orphan_after_close
from elman._core.rpc.frame_writer import FrameWriter
from elman._core.session.failures import closed_failure, lost_failure
from elman._core.session.operation import Failure
from elman._core.session.outbound import Opened
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import Layout
from elman.errors import ElmanError, ServerError
from elman.v1 import inference_pb2 as pb


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
        orphaned: Callable[[Session, Orphan], bool] = lambda session, orphan: False,
        succeeded: Callable[[], None] = lambda: None,
        progressed: Callable[[Session], None] = lambda session: None,
        max_frame_bytes: int = 1024 * 1024,
    ) -> None:
        """`orphaned` is called with each session able to resume elsewhere, and returns whether it
        will.

        If `orphaned` returns False, the session is lost. `succeeded` is called once, at the first
        progress of any session. `progressed` is called at the progress of each session.
        """
        self.finished = False
        self.draining = False
        """Whether new sessions should be opened elsewhere."""
        self._answered = False
        """Whether the server has sent an answer."""
        self._on_orphan = orphaned
        self._on_success = succeeded
        self._on_progress = progressed
        self._codec = known.codec
        self._writable = writable
        self._writer = FrameWriter(known, self, max_frame_bytes)
        self._progressed = False
        """Whether any session has made progress."""
        self._layouts: dict[object, Layout] = {}

    def open(self, options: SessionOptions, wake: Callable[[], None]) -> Session:
        """Creates a session, to be opened by the server later. `options` must be for the
        multiplexer's model."""
        layout = self._layouts.setdefault(options.layout.key, options.layout)
        session = Session(0, replace(options, layout=layout), self._codec, self, wake)
        self._writer.open(session)
        self._writable()
        return session

    def adopt(self, session: Session) -> None:
        """Takes over an orphan."""
        session.number = 0
        session.outbound = self
        self._writer.adopt(session)
        self._writable()

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`."""
        if session.number:
            self._writer.push(session)
            self._writable()

    def closed(self, session: Session) -> None:
        """Part of `Outbound`."""
        if session in self._writer.unopened and not (session.opened and session.in_flight):
            self._writer.unopened.remove(session)
            session.end(None)
            self._finish_if_empty()
        else:
            self._writer.close(session)
            self._writable()

    def ticket_requested(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._writer.request_ticket(session)
        self._writable()

    def progressed(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._on_progress(session)

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        for session in [*self._writer.unopened, *self._writer.sessions.values()]:
            session.close()

    def give_up(self, session: Session, failure: Failure) -> None:
        """Part of `Outbound`. Ends the session here, whatever the server does."""
        session.end(failure)
        if session in self._writer.unopened:
            self._writer.unopened.remove(session)
            self._finish_if_empty()
        else:
            self._writer.close(session)
            self._settled(session, None)
        self._writable()

    def take(self) -> pb.StreamRequest | None:
        """Returns the next frame, or None if there is none to send."""
        return None if self.finished else self._writer.take()

    # -------------------------------------------------------------------------------------------
    # From the server

    def receive(self, response: pb.StreamResponse) -> None:
        """Routes one frame. Raises `ServerError` for a breach of the protocol; the RPC must end
        then."""
        sessions = self._writer.sessions
        self._answered = True
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
            if closed.session in sessions or closed.session > self._writer.last_number:
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
        sessions = [*self._writer.sessions.values(), *self._writer.unopened]
        self._writer.sessions.clear()
        self._writer.unopened.clear()
        for session in sessions:
            if session.ended:
                continue
            orphan = None if final else orphan_after_break(error, session, crashed=self._answered)
            if not orphan or not self._orphaned(session, orphan):
                session.end(lost_failure(error, session, resuming=bool(orphan)))
        self._finish()

    def _closed(self, session: Session, closed: pb.Closed) -> None:
        orphan = orphan_after_close(closed, session)
        if orphan is None:
            session.end(closed_failure(closed, session))
            return
        self.draining |= orphan.draining
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
        if not session.can_resume:
            return False
        session.orphan()
        return self._on_orphan(session, orphan)

    def _settled(self, session: Session, position: int | None) -> None:
        if self._writer.settle(session, position):
            self._writable()

    def _finish_if_empty(self) -> None:
        if not self._writer.sessions and not self._writer.unopened:
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
                if not self._progressed and session.retries.since is None:
                    self._progressed = True
                    self._on_success()
        except ValueError:
            raise ServerError("the server sent predictions whose lists differ in length") from None

    def _session(self, number: int) -> Session:
        try:
            return self._writer.sessions[number]
        except KeyError:
            raise ServerError(
                f"the server sent a message for session {number}, which is not open"
            ) from None
