"""One session as its client sees it: what was pushed, what was answered, who reads the answers.

Knows nothing of sockets, threads or event loops. What may have to wait is an `Operation`: a
generator that yields whenever it must wait for the session to change, and whose `return` is its
result. A shell advances it again after the session's `wake` was called; whoever gives up on it
closes it. An operation must be advanced, and every method called, by one thread at a time.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from elman._core.mailbox import Mailbox, Reader, Reply
from elman._core.recovery.replay import Replay
from elman._core.recovery.retries import Retries
from elman._core.session_options import SessionOptions
from elman._wire.codec import Codec, Payload
from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction
from elman.errors import (
    ClientClosed,
    ElmanError,
    InvalidRequest,
    ServerError,
    SessionClosed,
)

T = TypeVar("T")

Operation: TypeAlias = Generator[int, None, T]
"""Yields 0 (or False) if the server owes nothing, so that the caller's timeout does not count.

Otherwise another number whenever the server has answered meanwhile, and the timeout starts again;
or always True, and it counts for all of the operation.
"""

Failure: TypeAlias = Callable[[], ElmanError]
"""Makes the error that ended a session anew for every call that meets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How a server has opened a session."""

    id: str
    window: int
    position: int = 0
    ticket_every: int = 0


class Outbound(Protocol):
    """Where a session's pushes and its close go."""

    def pushed(self, session: "Session") -> None:
        """The session has pending elements, and had none before."""

    def closed(self, session: "Session") -> None:
        """The session will get no more elements."""

    def ticket_wanted(self, session: "Session") -> None:
        """The session wants its ticket."""

    def got_on(self, session: "Session") -> None:
        """The session has an answer that it did not have."""

    def give_up(self, session: "Session", failure: "Failure") -> None:
        """The session ends with this."""


class _Nowhere:
    """For a session that has lost its RPC: what it has to say is looked at when it gets another."""

    def pushed(self, session: "Session") -> None: ...

    def closed(self, session: "Session") -> None: ...

    def ticket_wanted(self, session: "Session") -> None: ...

    def got_on(self, session: "Session") -> None: ...

    def give_up(self, session: "Session", failure: "Failure") -> None:
        session.end(failure)


NOWHERE = _Nowhere()


class Session:
    """Invariant: `answered <= pushed`, and `pushed - answered` is within the window.

    It goes on when its RPC has broken: on another it begins at its ticket, and everything since
    then is pushed again. Predictions that come again are dropped.

    An element counts as in flight from its push until its prediction has come, whether or not that
    has been read. `wake` is called whenever an operation may be able to go on.
    """

    __slots__ = (
        "_due",
        "_pending",
        "_replay",
        "_resumed_from",
        "_routes",
        "_ticket_waiters",
        "_window_limit",
        "answered",
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
        "pending_elements",
        "pushed",
        "restart",
        "resume_until",
        "retries",
        "sources",
        "ticket",
        "ticket_every",
        "ticket_position",
        "ticket_wanted_at",
        "wake",
        "window",
    )

    def __init__(
        self,
        number: int,
        options: SessionOptions,
        codec: Codec,
        outbound: Outbound,
        wake: Callable[[], None],
    ) -> None:
        self.number = number
        """Its own on its RPC; 0 before it was named there."""
        self.layout = options.layout
        self.codec = codec
        self.wake = wake
        self.outbound = outbound
        """Changes with its RPC."""
        self.contexts = options.contexts
        self._window_limit = options.window
        self.name = options.name
        """Of a session that servers keep; otherwise empty."""
        self.restart = options.restart
        """Whether it is still to begin anew."""
        self.id = ""
        self.window = 0
        self.opened = False
        self.closing = False
        self.ended = False
        self.failure: Failure | None = None
        self.pushed = 0
        self.answered = 0
        self.inbox = Mailbox()
        self.pending_elements = 0
        self._pending: deque[Payload] = deque()
        # Whom the predictions are for up to which position: (stop, reader), in order of positions.
        self._routes: deque[tuple[int, Reader]] = deque()
        self.sources: list[Callable[[], None]] = []
        """Called after each delivery: they may push, as there may be room now."""
        self.ticket = options.ticket
        """The last one; None before the first."""
        self.ticket_position = -1
        self.ticket_wanted_at: int | None = None
        """The least position of the ticket that somebody waits for."""
        self._ticket_waiters = 0
        self.ticket_every = options.ticket_every
        """After how many elements one comes, unasked; 0 for none."""
        self._replay = Replay(codec)
        self._resumed_from = -1
        """The position of the ticket at which it lost its RPC last."""
        self._due = 0
        """The position that the server's next prediction must have."""
        self.retries = Retries()
        self.resume_until = 0
        """Elements before this position were pushed on an RPC before this one."""
        self.parked = False
        """Whether it has no server, and needs none before it has something to say."""

    # -------------------------------------------------------------------------------------------
    # For the caller

    @property
    def in_flight(self) -> int:
        return self.pushed - self.answered

    @property
    def sent(self) -> int:
        """How many elements were pushed on its RPC, or are behind the ticket that it began from
        there."""
        return self.pushed - self.pending_elements

    @property
    def repeated(self) -> int:
        """The position before which its present server has answered all since its ticket, had that
        been answered before or not."""
        return self._due

    @property
    def resuming(self) -> bool:
        """Whether it has elements to push that it pushed before."""
        return self.sent < self.resume_until

    @property
    def room(self) -> int:
        """How many elements may be pushed now."""
        return max(0, self.window - self.in_flight)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for an answer, and it may yet be used."""
        waits = self.in_flight or self.closing or self.ticket_wanted_at is not None
        return self.opened and not waits

    def opening(self) -> Operation[None]:
        """Waits until the server has opened the session."""
        while not self.opened:
            if self.failure:
                raise self.failure()
            if self.ended:  # no stream has it yet that could close it
                raise ClientClosed("the client was closed")
            yield True

    def step(self, payload: Payload) -> Operation[Prediction]:
        """Pushes one element and waits for its prediction, past what others have in flight.

        Given up, it leaves the prediction to whoever iterates the stream.
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

        The timeout counts from the server's last answer.
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
        """Waits for the next prediction that nobody else reads; None after the session's end."""
        while not self.inbox:
            if self.failure:
                raise self.failure()
            if self.ended:
                return None
            # What is in flight for others is not owed to whoever waits here.
            yield self.closing or any(reader is self.inbox for _, reader in self._routes)
        return self.inbox.get()

    def close(self) -> None:
        """No more elements. Those that were pushed are finished."""
        if not self.closing and not self.ended:
            self.closing = True
            self.outbound.closed(self)
            self.wake()

    def take_ticket(self) -> Operation[bytes]:
        """Waits for a ticket of all that was pushed before."""
        self.check()
        position = self.pushed
        if self.ticket is None or self.ticket_position < position:
            self.ticket_wanted_at = max(position, self.ticket_wanted_at or 0)
            self.outbound.ticket_wanted(self)
        self._ticket_waiters += 1
        try:
            while self.ticket is None or self.ticket_position < position:
                if self.failure:
                    raise self.failure()
                if self.ended:
                    raise SessionClosed(f"the stream was closed after {self.pushed} elements")
                # Another number after every answer: see `Operation`.
                yield self.answered + 1
        finally:
            self._ticket_waiters -= 1
            if not self._ticket_waiters:
                self.ticket_wanted_at = None
        if not self.ticket:
            raise InvalidRequest("the server has no tickets of this model: its state is too large")
        return self.ticket

    # -------------------------------------------------------------------------------------------
    # For operations

    def check(self) -> None:
        """Raises what keeps the session from taking another element, if anything does."""
        if self.failure:
            raise self.failure()
        if self.closing:
            raise SessionClosed(f"the stream was closed after {self.pushed} elements")

    def make_room(self) -> Operation[None]:
        """Waits until the window is open."""
        self.check()
        while self.pushed - self.answered >= self.window:
            # Another number after every answer: see `Operation`.
            yield self.answered + 1
            self.check()

    def put(self, payload: Payload, count: int, reader: Reader) -> None:
        """Pushes `count` elements, within the window, whose predictions are for `reader`."""
        self.pushed += count
        routes = self._routes
        if routes and routes[-1][1] is reader:
            routes[-1] = (self.pushed, reader)
        else:
            routes.append((self.pushed, reader))
        self._pending.append(payload)
        self.pending_elements += count
        if self.pending_elements == count or self.parked:
            self.outbound.pushed(self)

    def abandon(self, reader: Reader) -> None:
        """Leaves what has come or will come for `reader` to the inbox."""
        for i, (stop, other) in enumerate(self._routes):
            if other is reader:
                self._routes[i] = (stop, self.inbox)
        self.inbox.merge(reader.take_runs())
        self.wake()

    # -------------------------------------------------------------------------------------------
    # For the multiplexer

    def take(self, limit: int, parts: list[Payload]) -> int:
        """Moves up to `limit` pending elements into `parts`; how many."""
        first = len(parts)
        if self.pending_elements <= limit:
            taken = self.pending_elements
            parts.extend(self._pending)
            self._pending.clear()
        else:
            taken = 0
            unit = self.codec.unit
            while taken < limit:
                part = self._pending.popleft()
                count = len(part) // unit
                if taken + count > limit:
                    count = limit - taken
                    self._pending.appendleft(part[count * unit :])
                    part = part[: count * unit]
                parts.append(part)
                taken += count
        self.pending_elements -= taken
        if self.ticket_every:
            for i in range(first, len(parts)):
                self._replay.add(parts[i])
        return taken

    def accept(self, opened: Opened) -> None:
        """The server has opened the session, or opened it again. Raises `ServerError` if it goes on
        at another position than the ticket's."""
        limit = self._window_limit
        self.id = opened.id
        self.window = max(1, opened.window if limit is None else min(opened.window, limit))
        self.ticket_every = opened.ticket_every
        if not self.opened:
            self.opened = True
            self._got_on()
            self.restart = False
            self.pushed = self.answered = self._due = opened.position
            self._replay = Replay(self.codec, opened.position)
            if self.ticket is not None:
                self.ticket_position = opened.position
        elif opened.position != self._due:
            raise ServerError(
                f"the server went on at position {opened.position} of a session; its ticket is of "
                f"{self._due}"
            )

    def keep_ticket(self, ticket: bytes, position: int) -> None:
        """The server has sent one. Raises `ServerError` if it is of what was not answered."""
        if not self._replay.start <= position <= self._due:
            raise ServerError(
                f"the server sent a ticket of position {position} of a session; expected was one "
                f"of {self._replay.start} to {self._due}"
            )
        got_on = position > self.ticket_position
        self.ticket, self.ticket_position = ticket, position
        if ticket:
            self.contexts = ()
            if self.ticket_every:
                self._replay.forget(position)
        if self.ticket_wanted_at is not None and self.ticket_wanted_at <= position:
            self.ticket_wanted_at = None
            got_on = True
            self.wake()
        if got_on and self.retries.since is not None:
            self._got_on()

    def _got_on(self) -> None:
        """What is waited for has come: a server that opens a session again and dies of its next
        element has not got on with it."""
        self.retries.begin_anew()
        self.outbound.got_on(self)

    @property
    def can_go_on(self) -> bool:
        """Whether it can be opened again as if nothing had happened."""
        if self.name and self.opened and not self.ticket:
            return False  # a server may have kept a later state than the one it began from here
        return not self.ended and (not self.opened or self.ticket_every > 0)

    def orphan(self) -> None:
        """It has lost its RPC: all since its ticket is to be pushed again."""
        self.outbound = NOWHERE
        if self.opened:
            self.resume_until = max(self.resume_until, self.pushed - self.pending_elements)
            stuck = self.resume_until > self._replay.start == self._resumed_from
            self.retries.stuck = self.retries.stuck + 1 if stuck else 0
            self._resumed_from = self._replay.start
        self._due = self._replay.start
        again = self._replay.take()
        self._pending.extendleft(reversed(again))
        self.pending_elements = self.pushed - self._due if self.opened else 0

    def deliver(self, frame: Frame, row: int, count: int, position: int) -> None:
        """Hands `count` predictions to their readers, but for those that they have. Raises
        `ServerError` if they are not the next ones of what was pushed."""
        if position != self._due or position + count > self.pushed - self.pending_elements:
            raise ServerError(
                f"the server answered elements {position} to {position + count - 1} of a session; "
                f"expected were {self._due} to {self.pushed - self.pending_elements - 1}"
            )
        self._due += count
        if position < self.answered:
            again = min(count, self.answered - position)
            row += again
            position += again
            count -= again
            if not count:
                return
        self.answered += count
        if self.retries.since is not None:
            self._got_on()
        routes = self._routes
        while count:
            stop, reader = routes[0]
            share = min(count, stop - position)
            reader.put(frame, row, share, position)
            row += share
            position += share
            count -= share
            if position == stop:
                routes.popleft()
        for source in tuple(self.sources):
            source()

    def end(self, failure: Failure | None) -> None:
        """Nothing more will be heard of it. What was answered can still be read."""
        if not self.ended:
            self.ended = True
            self.closing = True
            self.failure = failure
            self._pending.clear()
            self.pending_elements = 0
            self._replay.take()
            self.wake()
