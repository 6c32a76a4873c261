"""All sessions that one client has on one model, on one Stream RPC.

Decides what goes into each frame and where the answers go; knows nothing of sockets, threads or
event loops. Whatever was pushed since the last `take` goes out together in the next frame, so while
a write is in flight the next one gathers. One thread at a time may call it or its sessions.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat

from elman._codec import Payload
from elman._contexts import Contexts, contexts_bytes
from elman._models import KnownModel
from elman._outputs import Layout
from elman._session import Session
from elman._session_options import SessionOptions
from elman._status import closed_failure, lost_failure
from elman.errors import ElmanError, ServerError
from elman.v1 import inference_pb2 as pb

SESSION_BYTES = 24
"""What naming a session in a frame takes at most: its number, a count and their framing."""


class Multiplexer:
    """`writable` is called when `take` may have something to give after it gave None.

    It is `finished` once its last session has ended; a finished one opens no more.
    """

    def __init__(
        self,
        known: KnownModel,
        *,
        writable: Callable[[], None],
        max_frame_bytes: int = 1024 * 1024,
    ) -> None:
        self.finished = False
        self._model = known.model
        self._codec = known.codec
        self._writable = writable
        self._max_frame_bytes = max_frame_bytes
        self._started = False
        self._next_number = 1
        self._sessions: dict[int, Session] = {}
        self._layouts: dict[object, Layout] = {}
        self._opens: deque[tuple[Session, Contexts]] = deque()
        self._pushes: deque[Session] = deque()
        self._closes: deque[Session] = deque()

    def open(self, options: SessionOptions, wake: Callable[[], None]) -> Session:
        """A new session, not yet opened by the server. Its options are for this multiplexer's
        model."""
        layout = self._layouts.setdefault(options.layout.key, options.layout)
        session = Session(self._next_number, layout, self._codec, self, wake, options.window)
        self._next_number += 1
        self._sessions[session.number] = session
        self._opens.append((session, options.contexts))
        self._writable()
        return session

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._pushes.append(session)
        self._writable()

    def closed(self, session: Session) -> None:
        """Part of `Outbound`."""
        self._closes.append(session)
        self._writable()

    def close_sessions(self) -> None:
        """No more elements for any session."""
        for session in self._sessions.values():
            session.close()

    # -------------------------------------------------------------------------------------------
    # To the server

    def take(self) -> pb.StreamRequest | None:
        """The next frame, or None if there is nothing to say."""
        if not (self._opens or self._pushes or self._closes) or self.finished:
            return None
        frame = pb.StreamRequest()
        if not self._started:
            self._started = True
            frame.model = self._model.name
            frame.version = self._model.version
        budget = self._max_frame_bytes
        budget = self._take_opens(frame, budget)
        budget = self._take_pushes(frame, budget)
        self._take_closes(frame, budget)
        return frame

    def _take_opens(self, frame: pb.StreamRequest, budget: int) -> int:
        while self._opens and budget > 0:
            session, contexts = self._opens[0]
            if contexts and frame.opens and contexts_bytes(contexts) > budget:
                break
            self._opens.popleft()
            message = frame.opens.add(session=session.number, outputs=session.layout.requests)
            if contexts:
                message.contexts.extend(contexts)
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

    def _take_closes(self, frame: pb.StreamRequest, budget: int) -> None:
        if self._opens:
            return
        for _ in range(len(self._closes)):
            session = self._closes.popleft()
            if session.pending_elements or budget <= 0:
                self._closes.append(session)
            elif not session.ended:
                frame.closes.append(session.number)
                budget -= SESSION_BYTES

    # -------------------------------------------------------------------------------------------
    # From the server

    def receive(self, response: pb.StreamResponse) -> None:
        """Routes one frame. Raises `ServerError` if it breaks the protocol, which the RPC cannot
        survive."""
        sessions = self._sessions
        for opened in response.opened:
            session = self._session(opened.session)
            session.accept(opened.id, opened.window)
            session.wake()
        for predictions in response.predictions:
            self._deliver(predictions)
        for closed in response.closed:
            # The server closes a number that has ended again if a push to it crossed its end.
            if closed.session in sessions or closed.session >= self._next_number:
                session = self._session(closed.session)
                del sessions[closed.session]
                complete = session.in_flight == 0
                session.end(closed_failure(closed, opened=session.opened, complete=complete))
        if not sessions:
            self._finish()

    def fail(self, error: ElmanError) -> None:
        """The RPC has ended: so have all its sessions, each with an error of its own."""
        for session in self._sessions.values():
            session.end(lost_failure(error, opened=session.opened, position=session.answered))
        self._sessions.clear()
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
                if session.layout is not layout:
                    raise ServerError("the server packed sessions with different outputs together")
                session.deliver(frame, row, count, position)
                session.wake()
                row += count
        except ValueError:
            raise ServerError("the server sent predictions whose lists differ in length") from None

    def _session(self, number: int) -> Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise ServerError(f"the server spoke of session {number}, which is not open") from None
