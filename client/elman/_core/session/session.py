"""A session on the client: elements pushed, elements answered, readers of the predictions.

Independent of sockets, threads and event loops. Only one thread at a time may advance operations or
call methods.
"""

from collections.abc import Callable

from elman._core.recovery.retries import Retries
from elman._core.session.mailbox import Mailbox, Reader, Reply, Routes
from elman._core.session.operation import Failure, Operation
from elman._core.session.outbound import NOWHERE, Opened, Outbound
from elman._core.session.send_buffer import SendBuffer
from elman._core.session.session_options import SessionOptions
from elman._wire.codec import Codec, Payload
from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction
from elman.errors import ClientClosed, InvalidRequest, ServerError, SessionClosed


class Session:
    """Invariant: `answered <= pushed`, and `pushed - answered` is within the window.

    The session survives a broken RPC. The session resumes from the ticket on another RPC, and all
    elements since the ticket are pushed again. Repeated predictions are dropped.

    An element is in flight from the push until the prediction arrives, read or unread. `wake` is
    called whenever a waiting operation may be able to continue.
    """

    __slots__ = (
        "_expected",
        "_resumed_from",
        "_routes",
        "_ticket_waiters",
        "_window_limit",
        "answered",
        "buffer",
        "closing",
        "codec",
        "contexts",
        "ended",
        "failure",
        "id",
        "inbox",
        "layout",
        "name",
        "number",
        "opened",
        "outbound",
        "parked",
        "pushed",
        "restart",
        "resume_until",
        "retries",
        "sources",
        "ticket",
        "ticket_every",
        "ticket_position",
        "ticket_requested_at",
        "wake",
        "window",
    )

    def __init__(
        self,
        number: int,
        options: SessionOptions,
        codec: Codec,
        outbound: "Outbound[Session]",
        wake: Callable[[], None],
    ) -> None:
        self.number = number
        """The session's number on the RPC; 0 until the opening is sent."""
        self.layout = options.layout
        self.codec = codec
        self.wake = wake
        self.outbound = outbound
        """Replaced together with the RPC."""
        self.contexts = options.contexts
        self._window_limit = options.window
        self.name = options.name
        """Name of a named session, which servers store; otherwise empty."""
        self.restart = options.restart
        """Whether the named session is still to begin anew."""
        self.id = ""
        self.window = 0
        self.opened = False
        self.closing = False
        self.ended = False
        self.failure: Failure | None = None
        self.pushed = 0
        self.answered = 0
        self.inbox = Mailbox()
        self.buffer = SendBuffer(codec, keeps=options.ticket_every > 0)
        self._routes = Routes()
        self.sources: list[Callable[[], None]] = []
        """Callbacks after each delivery, to push more elements into the free room."""
        self.ticket = options.ticket
        """Last ticket; None before the first."""
        self.ticket_position = -1
        self.ticket_requested_at: int | None = None
        """Least position of the requested ticket; None without a request."""
        self._ticket_waiters = 0
        self.ticket_every = options.ticket_every
        """Number of elements between two tickets sent unasked; 0 for no tickets."""
        self._resumed_from = -1
        """Position of the ticket in use at the last loss of an RPC."""
        self._expected = 0
        """Position expected of the server's next prediction."""
        self.retries = Retries()
        self.resume_until = 0
        """Elements before this position were pushed on an earlier RPC."""
        self.parked = False
        """Whether the session has no server, and needs no server before the next push."""

    # -------------------------------------------------------------------------------------------
    # For the caller

    @property
    def in_flight(self) -> int:
        return self.pushed - self.answered

    @property
    def sent(self) -> int:
        """Number of elements pushed on the present RPC or covered by the RPC's first ticket."""
        return self.pushed - self.buffer.pending

    @property
    def repeated(self) -> int:
        """Position up to which the present server has answered, repeated answers included."""
        return self._expected

    @property
    def resuming(self) -> bool:
        """Whether elements pushed on an earlier RPC are still to be pushed again."""
        return self.sent < self.resume_until

    @property
    def room(self) -> int:
        """Number of elements the window admits now."""
        return max(0, self.window - self.in_flight)

    @property
    def idle(self) -> bool:
        """Whether the session is open and owed no answer."""
        waits = self.in_flight or self.closing or self.ticket_requested_at is not None
        return self.opened and not waits

    def opening(self) -> Operation[None]:
        """Waits until the server has opened the session."""
        while not self.opened:
            if self.failure:
                raise self.failure()
            if self.ended:  # no stream exists yet to close the session
                raise ClientClosed("the client was closed")
            yield True

    def step(self, payload: Payload) -> Operation[Prediction]:
        """Pushes an element and waits for the prediction, while other elements may be in flight.

        If the caller gives up, the prediction goes to the stream's inbox.
        """
        if self.closing or self.pushed - self.answered >= self.window:
            yield from self.make_room()
        reply = Reply()
        self.put(payload, 1, reply)
        try:
            while (run := reply.run) is None:
                if self.failure:
                    raise self.failure()
                yield True
        except GeneratorExit:
            self.abandon(reply)
            raise
        return run.first()

    def push(self, payload: Payload) -> Operation[None]:
        """Pushes elements, as many at a time as the window allows.

        The timeout restarts with each answer of the server.
        """
        unit = self.codec.unit
        start, stop = 0, len(payload) // unit
        self.check()
        while start < stop:
            yield from self.make_room()
            count = min(self.room, stop - start)
            self.put(payload[start * unit : (start + count) * unit], count, self.inbox)
            self.wake()
            start += count

    def next(self) -> Operation[Prediction | None]:
        """Waits for the next prediction in the inbox; None after the session's end."""
        while not self.inbox:
            if self.failure:
                raise self.failure()
            if self.ended:
                return None
            # Predictions in flight for other readers do not count as owed here.
            yield self.closing or self.inbox in self._routes
        return self.inbox.get()

    def close(self) -> None:
        """Closes the session for pushes. Pushed elements are finished."""
        if not self.closing and not self.ended:
            self.closing = True
            self.outbound.closed(self)
            self.wake()

    def take_ticket(self) -> Operation[bytes]:
        """Waits for a ticket of all elements pushed before the call."""
        self.check()
        position = self.pushed
        if self.ticket is None or self.ticket_position < position:
            self.ticket_requested_at = max(position, self.ticket_requested_at or 0)
            self.outbound.ticket_requested(self)
        self._ticket_waiters += 1
        try:
            while self.ticket is None or self.ticket_position < position:
                if self.failure:
                    raise self.failure()
                if self.ended:
                    raise SessionClosed(f"the stream was closed after {self.pushed} elements")
                # The number changes with every answer: see `Operation`.
                yield self.answered + 1
        finally:
            self._ticket_waiters -= 1
            if not self._ticket_waiters:
                self.ticket_requested_at = None
        if not self.ticket:
            raise InvalidRequest(
                "the server has no tickets of this model: the model's state is too large"
            )
        return self.ticket

    # -------------------------------------------------------------------------------------------
    # For operations

    def check(self) -> None:
        """Raises the session's failure, or `SessionClosed` after its close."""
        if self.failure:
            raise self.failure()
        if self.closing:
            raise SessionClosed(f"the stream was closed after {self.pushed} elements")

    def make_room(self) -> Operation[None]:
        """Waits until the window has room."""
        self.check()
        while self.pushed - self.answered >= self.window:
            # The number changes with every answer: see `Operation`.
            yield self.answered + 1
            self.check()

    def put(self, payload: Payload, count: int, reader: Reader) -> None:
        """Pushes `count` elements, within the window. Their predictions go to `reader`."""
        self.pushed += count
        self._routes.add(self.pushed, reader)
        if self.buffer.put(payload, count) == count or self.parked:
            self.outbound.pushed(self)

    def abandon(self, reader: Reader) -> None:
        """Redirects all predictions of `reader`, received or in flight, to the inbox."""
        self._routes.redirect(reader, self.inbox)
        self.inbox.merge(reader.take_runs())
        self.wake()

    # -------------------------------------------------------------------------------------------
    # For the multiplexer

    def accept(self, opened: Opened) -> None:
        """Handles the opening of the session by a server, first or repeated.

        Raises `ServerError` if a resumed session's position differs from the ticket's.
        """
        limit = self._window_limit
        self.id = opened.id
        self.window = max(1, opened.window if limit is None else min(opened.window, limit))
        self.ticket_every = opened.ticket_every
        self.buffer.keeps = opened.ticket_every > 0
        if not self.opened:
            self.opened = True
            self._report_progress()
            self.restart = False
            self.pushed = self.answered = self._expected = opened.position
            self.buffer.start_at(opened.position)
            if self.ticket is not None:
                self.ticket_position = opened.position
        elif opened.position != self._expected:
            raise ServerError(
                f"the server resumed a session at position {opened.position}; the session's ticket "
                f"is of position {self._expected}"
            )

    def keep_ticket(self, ticket: bytes, position: int) -> None:
        """Stores a ticket of the server. Raises `ServerError` if its position is not yet
        answered."""
        if not self.buffer.start <= position <= self._expected:
            raise ServerError(
                f"the server sent a ticket of position {position} of a session; expected were "
                f"{self.buffer.start} to {self._expected}"
            )
        progressed = position > self.ticket_position
        self.ticket, self.ticket_position = ticket, position
        if ticket:
            self.contexts = ()
            if self.ticket_every:
                self.buffer.forget(position)
        if self.ticket_requested_at is not None and self.ticket_requested_at <= position:
            self.ticket_requested_at = None
            progressed = True
            self.wake()
        if progressed and self.retries.since is not None:
            self._report_progress()

    def _report_progress(self) -> None:
        """Reports progress. An open alone is no progress for a resumed session: its server may die
        of the next element."""
        self.retries.reset()
        self.outbound.progressed(self)

    @property
    def can_resume(self) -> bool:
        """Whether the session can be opened again without loss."""
        if self.name and self.opened and not self.ticket:
            return False  # a server may have stored a later state than the session's start here
        return not self.ended and (not self.opened or self.ticket_every > 0)

    def orphan(self) -> None:
        """Detaches the session from its RPC; all elements since the ticket become pending again."""
        self.outbound = NOWHERE
        if self.opened:
            self.resume_until = max(self.resume_until, self.sent)
            stuck = self.resume_until > self.buffer.start == self._resumed_from
            self.retries.stuck = self.retries.stuck + 1 if stuck else 0
            self._resumed_from = self.buffer.start
        self._expected = self.buffer.start
        self.buffer.rewind()

    def deliver(self, frame: Frame, row: int, count: int, position: int) -> None:
        """Hands `count` predictions to the readers, and drops repeated predictions.

        Raises `ServerError` if the position is not the next position, or beyond the elements
        pushed.
        """
        if position != self._expected or position + count > self.pushed - self.buffer.pending:
            raise ServerError(
                f"the server answered elements {position} to {position + count - 1} of a session; "
                f"expected were {self._expected} to {self.sent - 1}"
            )
        self._expected += count
        if position < self.answered:
            skipped = min(count, self.answered - position)
            row += skipped
            position += skipped
            count -= skipped
            if not count:
                return
        self.answered += count
        if self.retries.since is not None:
            self._report_progress()
        self._routes.deliver(frame, row, count, position)
        for source in tuple(self.sources):
            source()

    def end(self, failure: Failure | None) -> None:
        """Ends the session, with or without a failure. Received predictions can still be read."""
        if not self.ended:
            self.ended = True
            self.closing = True
            self.failure = failure
            self.buffer.clear()
            self.wake()
