"""One session as its client sees it: what was pushed, what was answered, who reads the answers.

Knows nothing of sockets, threads or event loops. What may have to wait is an `Operation`: a
generator that yields whenever it must wait for the session to change, and whose `return` is its
result. A shell advances it again after the session's `wake` was called; whoever gives up on it
closes it. An operation must be advanced, and every method called, by one thread at a time.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Protocol, TypeAlias, TypeVar

from elman._codec import Codec, Payload
from elman._mailbox import Mailbox, Reader, Reply
from elman._outputs import Frame, Layout
from elman._prediction import Prediction
from elman.errors import ElmanError, ServerError, SessionClosed

T = TypeVar("T")

Operation: TypeAlias = Generator[int, None, T]
"""Yields 0 (or False) if the server owes nothing, so that the caller's timeout does not count.

Otherwise another number whenever the server has answered meanwhile, and the timeout starts again;
or always True, and it counts for all of the operation.
"""

Failure: TypeAlias = Callable[[], ElmanError]
"""Makes the error that ended a session anew for every call that meets it."""


class Outbound(Protocol):
    """Where a session's pushes and its close go."""

    def pushed(self, session: "Session") -> None:
        """The session has pending elements, and had none before."""

    def closed(self, session: "Session") -> None:
        """The session will get no more elements."""


class Session:
    """Invariant: `answered <= pushed`, and `pushed - answered` is within the window.

    An element counts as in flight from its push until its prediction has come, whether or not that
    has been read. `wake` is called whenever an operation may be able to go on.
    """

    __slots__ = (
        "_outbound",
        "_pending",
        "_routes",
        "_window_limit",
        "answered",
        "closing",
        "codec",
        "ended",
        "failure",
        "id",
        "inbox",
        "layout",
        "number",
        "opened",
        "pending_elements",
        "pushed",
        "sources",
        "wake",
        "window",
    )

    def __init__(
        self,
        number: int,
        layout: Layout,
        codec: Codec,
        outbound: Outbound,
        wake: Callable[[], None],
        window_limit: int | None = None,
    ) -> None:
        self.number = number
        self.layout = layout
        self.codec = codec
        self.wake = wake
        self._outbound = outbound
        self._window_limit = window_limit
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

    # -------------------------------------------------------------------------------------------
    # For the caller

    @property
    def in_flight(self) -> int:
        return self.pushed - self.answered

    @property
    def room(self) -> int:
        """How many elements may be pushed now."""
        return max(0, self.window - self.in_flight)

    def opening(self) -> Operation[None]:
        """Waits until the server has opened the session."""
        while not self.opened:
            if self.failure:
                raise self.failure()
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
            self._outbound.closed(self)
            self.wake()

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
        if self.pending_elements == count:
            self._outbound.pushed(self)

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
        return taken

    def accept(self, id: str, window: int) -> None:
        """The server has opened the session."""
        limit = self._window_limit
        self.id = id
        self.window = max(1, window if limit is None else min(window, limit))
        self.opened = True

    def deliver(self, frame: Frame, row: int, count: int, position: int) -> None:
        """Hands `count` predictions to their readers. Raises `ServerError` if they are not the next
        ones of what was pushed."""
        if position != self.answered or position + count > self.pushed:
            raise ServerError(
                f"the server answered elements {position} to {position + count - 1} of a session; "
                f"expected were {self.answered} to {self.pushed - 1}"
            )
        self.answered += count
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
            self.wake()
