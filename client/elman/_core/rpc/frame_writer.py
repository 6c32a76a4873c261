"""Frames of an RPC to the server: openings, repeated and new elements, ticket requests, closes.

All elements pushed since the last frame go into the next frame.
"""

from collections import deque
from typing import Protocol

from elman._core.models import KnownModel
from elman._core.recovery.resuming import ResumeWindow
from elman._core.rpc.push_builder import SESSION_BYTES, PushBuilder
from elman._core.session.session import Session
from elman._wire.contexts import contexts_bytes
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


class FrameWriter:
    """Sessions of an RPC, with queues of sessions that have something to send."""

    def __init__(self, known: KnownModel, owner: object, max_frame_bytes: int) -> None:
        """`owner`: the outbound of the RPC's sessions. A session with another outbound has left."""
        self._model = known.model
        self._codec = known.codec
        self._owner = owner
        self._max_frame_bytes = max_frame_bytes
        self._started = False
        self.last_number = 0
        self.sessions: dict[int, Session] = {}
        """Sessions known to the server, by number, until the server reports the end."""
        self.unopened: set[Session] = set()
        """Sessions unknown to the server."""
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

    def open(self, session: Session) -> None:
        """Queues a new session."""
        self._opens.append(session)
        self.unopened.add(session)

    def adopt(self, session: Session) -> None:
        """Queues an orphan, with the requests from before."""
        self._window.enter(session)
        if session.resuming:
            self._resuming.append((0, session))
        else:
            self._opens.append(session)
        self.unopened.add(session)
        if session.ticket_requested_at is not None:
            self._tickets.append(session)
        if session.closing:
            self._closes.append(session)

    def push(self, session: Session) -> None:
        """Queues an open session with elements to push."""
        self._pushes.append(session.number)

    def request_ticket(self, session: Session) -> None:
        self._tickets.append(session)

    def close(self, session: Session) -> None:
        self._closes.append(session)

    def settle(self, session: Session, position: int | None) -> bool:
        """Removes a piece from the resume window: its ticket has come, or no ticket will come.

        Returns whether the window has more room.
        """
        if not self._window.settle(session, position):
            return False
        if session.resuming and not session.ended:
            self._resuming.append((session.number, session))
        return True

    def take(self) -> pb.StreamRequest | None:
        """Returns the next frame, or None if there is none to send."""
        frame = pb.StreamRequest()
        push = PushBuilder(self._codec)
        most = self._max_frame_bytes
        unfinished: list[int] = []
        # Fairness: openings get at most half of a frame while open sessions have elements to push.
        share = most // 2 if self._pushes else most
        left = self._take_resuming(frame, push, share, unfinished)
        left = self._take_opens(frame, push, left, unfinished)
        self._take_pushes(frame, push, left + most - share)
        self._pushes.extend(unfinished)
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
        self, frame: pb.StreamRequest, push: PushBuilder, budget: int, unfinished: list[int]
    ) -> int:
        """Adds a piece of each resumed session's elements, while the resume window has room.

        A session with more pieces continues after its next ticket. Returns the budget left.
        """
        while self._resuming and budget > 0 and (room := self._window.room) > 0:
            number, session = self._resuming[0]
            if session.ended or session.outbound is not self._owner or session.number != number:
                self._resuming.popleft()
                continue
            opening = 0
            if session in self.unopened:
                if self._opening_bytes(session) > budget and (frame.opens or push):
                    return 0
                opening = self._open(frame, session)
            self._resuming.popleft()
            nbytes, most = opening, min(budget, room) - opening
            if not opening or most >= self._codec.width:
                nbytes += push.add(session, most)
            frame.tickets.append(session.number)
            self._window.sent(session, nbytes, session.sent)
            budget -= nbytes
            if session.buffer.pending and not session.resuming:
                unfinished.append(session.number)
        return budget

    def _take_opens(
        self, frame: pb.StreamRequest, push: PushBuilder, budget: int, unfinished: list[int]
    ) -> int:
        """Opens sessions, each with its first elements, since a server may park silent sessions.

        Returns the budget left.
        """
        while self._opens and budget > 0:
            session = self._opens[0]
            if session.ended or session.outbound is not self._owner:
                self._opens.popleft()
                continue
            fits = self._opening_bytes(session) <= budget
            if not fits and (frame.opens or push):
                break
            self._opens.popleft()
            budget -= self._open(frame, session)
            if budget > 0 or (fits and self._codec.width <= _SMALL_BYTES):
                budget -= push.add(session, budget)
            if session.buffer.pending:
                unfinished.append(session.number)
        return budget

    @staticmethod
    def _opening_bytes(session: Session) -> int:
        """Bytes of ticket and contexts at an opening. May be nearly as large as a message may
        be."""
        return len(session.ticket or b"") + contexts_bytes(session.contexts)

    def _open(self, frame: pb.StreamRequest, session: Session) -> int:
        """Adds the opening of a session to a frame. Returns the size in bytes."""
        self.unopened.remove(session)
        self.last_number += 1
        session.number = self.last_number
        self.sessions[session.number] = session
        message = frame.opens.add(session=session.number, outputs=session.layout.requests)
        message.name, message.restart = session.name, session.restart
        message.ticket_every_elements = session.ticket_every
        if session.ticket_every:
            message.ticket_every_seconds = TICKET_SECONDS
            message.parkable = True
        if session.ticket:
            message.ticket = session.ticket
            if session.name:
                message.replay = session.buffer.pending
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
            session = self.sessions.get(number)
            if session is None:
                continue
            budget -= add(session, budget)
            if session.buffer.pending:
                pushes.appendleft(number)
                break

    def _take_last(self, queue: deque[Session], numbers: _Numbers, budget: int) -> None:
        """Adds ticket requests or closes for sessions with all elements sent."""
        for _ in range(len(queue)):
            session = queue.popleft()
            if session.outbound is not self._owner or self._has_ended(session):
                continue
            if session.buffer.pending or session in self.unopened or budget <= 0:
                queue.append(session)
            else:
                numbers.append(session.number)
                budget -= SESSION_BYTES

    def _has_ended(self, session: Session) -> bool:
        """Whether the session has ended at the server too."""
        return session.ended and self.sessions.get(session.number) is not session
