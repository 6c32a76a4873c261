"""One Stream RPC: its sessions, and what goes in and out of it.

The reader turns frames into calls of the engine; the writer turns the outbox into frames. While a
write is under way, what the engine finishes gathers in the outbox and goes out in the next.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from math import inf
from typing import TypeGuard

import numpy as np

from elman.v1 import inference_pb2 as pb
from elman_server.admission import Admission
from elman_server.elements import Decoded
from elman_server.engine.beginning import Given
from elman_server.engine.outbox import Outbox
from elman_server.engine.queues import Elements, Times
from elman_server.engine.session import Ending, EndReason, Session
from elman_server.engine.snapshot import NEVER, Cadence, Snapshot
from elman_server.errors import (
    InvalidElement,
    InvalidRequest,
    ModelUnavailable,
    ServerError,
    ShuttingDown,
)
from elman_server.named.keeper import Keeper
from elman_server.selection import OutputRequest, Selection
from elman_server.served import ServedModel
from elman_server.transport import messages, status
from elman_server.transport.frames import FramePacker
from elman_server.transport.naming import Naming, Wanted
from elman_server.transport.ticketing import Ticketing

_OLD = "the connection has reached its age; connect anew"
_MOVED = Ending(
    reason=EndReason.MOVED,
    message="the connection has reached its age; the session goes on from its ticket on another",
)

Write = Callable[[bytes], Coroutine[None, None, None]]
"""Takes a serialized `StreamResponse`."""

_STAY_SECONDS = 60.0
"""Between two looks whether a model lets its sessions go."""
_LAST_SECONDS = 1.0
"""What a client that does not read gets to take its last tickets."""
_KNOWN_SELECTIONS = 64
_MANY = 8
"""Sessions in a push from which on it costs less to look at all of them at once."""
_MAX_ENTRIES = 65_536
"""Of a frame: while it is taken, nothing else is."""


class StreamRpc:
    def __init__(
        self,
        *,
        model: ServedModel,
        admission: Admission,
        identity: str,
        keeper: Keeper | None,
        window: int,
        max_message_bytes: int,
        max_age: float = inf,
        grace: float = 0.0,
    ) -> None:
        """`identity`: of the caller, or empty. After `max_age` seconds the sessions are handed
        over, and get `grace` seconds to finish what was pushed."""
        self._model = model
        self._identity = identity
        self._ticketing = Ticketing(model, identity)
        self._naming = Naming(model, identity, keeper)
        self._max_age = max_age if model.tickets.available else inf
        self._grace = grace
        self._leaving = False
        self._engine = model.engine
        self._admission = admission
        self._window = window
        self._max_message_bytes = max_message_bytes
        self._frame_bytes = max_message_bytes // 4
        self._outbox = Outbox(limit=self._frame_bytes, notify=self.notify)
        self._changed = asyncio.Event()
        self._readable = asyncio.Event()
        self._sessions: dict[int, Session] = {}
        self._roster = self._engine.roster(self._outbox)
        self._last_number = -1
        self._dismissed = False
        self._beyond_window: set[Session] = set()
        self._packer = FramePacker(
            max_bytes=self._frame_bytes,
            opened=self._opened,
            ticket=self._ticketing.issue,
            handed_over=self._handed_over,
        )
        self._refused: list[pb.Closed] = []
        self._refused_nbytes = 0
        self._selections: dict[tuple[OutputRequest, ...], Selection] = {}

    def notify(self) -> None:
        """Something changed: in the outbox, in a queue, or in the server."""
        self._changed.set()
        self._readable.set()

    def dismiss(self, model: ServedModel) -> None:
        """If that is its model, it was unloaded: the RPC takes no more sessions, and has none but
        those that have ended and were not told yet."""
        if model is self._model:
            self._dismissed = True
            self.notify()

    async def run(
        self, first: pb.StreamRequest, requests: AsyncIterator[pb.StreamRequest], write: Write
    ) -> None:
        """Serves the RPC to its end. Raises a `ServerError` for what concerns all of it."""
        reader = asyncio.create_task(self._read(first, requests))
        reader.add_done_callback(self._read_all)
        leave = asyncio.create_task(self._leave_in_time())
        try:
            await self._write(reader, write)
            if reader.done():
                reader.result()
            else:
                raise self._ended()
        finally:
            reader.cancel()
            leave.cancel()
            self._admission.forget(self.notify)
            self._engine.abandon(self._outbox, list(self._sessions.values()))

    async def _write(self, reader: "asyncio.Task[None]", write: Write) -> None:
        half_closed = False
        while True:
            self._changed.clear()
            await self._tell(write)
            if self._changed.is_set():
                continue
            if reader.done() and reader.exception() is not None:
                return
            if reader.done() and self._sessions and not half_closed:
                # A broken connection looks like a half-close to the reader; a write tells.
                await write(b"")
                half_closed = True
                for session in self._sessions.values():
                    self._engine.close(session)
                continue
            if not self._sessions and (
                reader.done() or self._admission.closed or self._leaving or self._dismissed
            ):
                return
            await self._changed.wait()

    async def _tell(self, write: Write) -> None:
        """What there is to tell, asking before each frame whether that may be told."""
        if self._naming.used:
            await self._naming.fence()
        responses = self._responses()
        while (response := next(responses, None)) is not None:
            await write(response)
            if self._naming.used:
                await self._naming.fence()

    def _ended(self) -> ServerError:
        """Why it is the server that ends the RPC."""
        if self._admission.closed:
            return ShuttingDown("the server is stopping")
        if self._leaving:
            return ShuttingDown(_OLD)
        return ModelUnavailable(f"{self._model} was unloaded")

    async def _leave_in_time(self) -> None:
        """Hands the sessions over when the RPC has reached its age."""
        if self._max_age == inf:
            return
        await asyncio.sleep(self._max_age)
        while self._engine.stays:
            await asyncio.sleep(min(self._max_age, _STAY_SECONDS))
        self._leaving = True
        for session in list(self._sessions.values()):
            self._engine.close(session, _MOVED)
        self.notify()
        await asyncio.sleep(self._grace)
        for session in list(self._sessions.values()):
            self._engine.cut(session, _MOVED)
        await asyncio.sleep(_LAST_SECONDS)
        for session in list(self._sessions.values()):
            self._engine.abort(session, _MOVED.without_snapshot)

    def _read_all(self, reader: "asyncio.Task[None]") -> None:
        if not reader.cancelled():
            reader.exception()  # seen, so that asyncio does not complain of it if the RPC broke
        self.notify()

    async def _read(
        self, first: pb.StreamRequest, requests: AsyncIterator[pb.StreamRequest]
    ) -> None:
        try:
            await self._take_when_there_is_room(first)
            async for request in requests:
                if request.model or request.version:
                    raise InvalidRequest(
                        f"model {request.model!r}, version {request.version!r} in a later frame; "
                        "only the first frame names them"
                    )
                await self._take_when_there_is_room(request)
        except ServerError as error:
            ending = Ending(reason=EndReason.INVALID_REQUEST, message=str(error))
            for session in self._sessions.values():
                self._engine.drop(session, ending)
            raise

    async def _take_when_there_is_room(self, request: pb.StreamRequest) -> None:
        while not self._fits(request):
            await self._change()
        self._take(request)
        while not self._wants_more():
            await self._change()

    async def _change(self) -> None:
        self._readable.clear()
        self._admission.wait(self.notify)
        await self._readable.wait()

    def _fits(self, request: pb.StreamRequest) -> bool:
        """Whether a push can be taken. A crowded server still takes a small one of an RPC that has
        nothing waiting: so bulk does not keep single elements out."""
        if not self._admission.crowded:
            return True
        push = request.push
        elements = self._model.codec.count(push.text or push.raw)
        return not self._outbox.pending and elements <= self._window

    def _wants_more(self) -> bool:
        """Whether the next frame may be read."""
        outbox = self._outbox
        return not (
            self._is_beyond_window()
            or outbox.full
            or outbox.contexts_nbytes > self._frame_bytes
            or (outbox.contexts_nbytes and self._admission.crowded_by_contexts)
            or self._refused_nbytes > self._frame_bytes
            or (outbox.pending and self._admission.crowded)
        )

    def _is_beyond_window(self) -> bool:
        """Whether a session is. One is enough, as this is asked after each step."""
        while self._beyond_window:
            session = self._beyond_window.pop()
            if session.ended is None and session.unanswered > self._window:
                self._beyond_window.add(session)
                return True
        return False

    def _take(self, request: pb.StreamRequest) -> None:
        arrival = self._engine.now()
        entries = (
            len(request.opens)
            + len(request.push.sessions)
            + len(request.closes)
            + len(request.tickets)
        )
        if entries > _MAX_ENTRIES:
            raise InvalidRequest(
                f"a frame names sessions {entries} times; allowed is {_MAX_ENTRIES}"
            )
        for message in request.opens:
            self._open(message)
        if request.HasField("push"):
            self._push(request.push, arrival)
        for number in request.tickets:
            self._ask_for_ticket(number)
        for number in request.closes:
            self._close(number)
        if self._refused:
            self._changed.set()

    def _open(self, message: pb.Open) -> None:
        number = message.session
        if number <= self._last_number:
            self._refuse_used_number(number)
            return
        self._last_number = number
        if self._leaving:
            self._refuse(number, ShuttingDown(_OLD))
            return
        try:
            if self._dismissed:
                raise self._ended()
            given, wanted = self._beginning(message)
            session = self._engine.open(
                number=number,
                outbox=self._outbox,
                selection=self._selection(message.outputs),
                given=given if wanted is None else wanted.given,
                awaited=wanted is not None,
                cadence=self._ticketing.cadence(message),
                parkable=message.parkable and self._model.tickets.available,
            )
        except ServerError as error:
            self._refuse(number, error)
            return
        self._sessions[number] = session
        self._roster.add(session)
        if isinstance(given, Snapshot):
            self._model.metrics.session_resumed()
        if wanted is not None:
            self._naming.begin(session, wanted)

    def _beginning(self, message: pb.Open) -> tuple[Given | None, Wanted | None]:
        """What a session begins from, or by which name that is to be found. Raises a
        `ServerError`."""
        if message.fingerprint:
            self._ticketing.check_fingerprint(message.fingerprint)
        if message.ticket and message.contexts:
            raise InvalidRequest("a session is opened with a ticket and contexts; allowed is one")
        if message.name:
            return None, self._naming.wanted(message)
        if message.restart:
            raise InvalidRequest("a session is opened with restart and no name")
        if message.ticket:
            return self._ticketing.redeem(message.ticket), None
        return self._model.contexts.decode(messages.given_contexts(message.contexts)), None

    def _opened(self, session: Session) -> pb.Opened:
        every = session.cadence or Cadence()
        return pb.Opened(
            session=session.number,
            id=session.id,
            window=self._window,
            position=session.first,
            ticket_every_elements=0 if every.elements == NEVER else every.elements,
            ticket_every_seconds=0 if every.seconds == inf else every.seconds,
        )

    def _refuse_used_number(self, number: int) -> None:
        text = f"session {number} is opened twice; numbers grow, the last was {self._last_number}"
        session = self._sessions.get(number)
        if session is None or session.ended is not None:
            self._refuse(number, InvalidRequest(text))
        else:
            self._engine.close(session, Ending(reason=EndReason.INVALID_REQUEST, message=text))

    def _refuse(self, number: int, error: ServerError) -> None:
        closed = status.refused(number, error)
        self._refused.append(closed)
        self._refused_nbytes += closed.ByteSize()

    def _selection(self, outputs: Iterable[pb.OutputRequest]) -> Selection:
        """Equal requests give the same object, so that their sessions' predictions are packed
        together."""
        requests = tuple(messages.output_requests(outputs))
        selection = self._selections.get(requests)
        if selection is None:
            selection = Selection(requests, self._model.file.spec.outputs)
            if selection.element_nbytes > self._max_message_bytes // 2:
                raise InvalidRequest(
                    f"the outputs take {selection.element_nbytes} bytes an element; allowed is "
                    f"{self._max_message_bytes // 2}, half of the message limit"
                )
            if len(self._selections) >= _KNOWN_SELECTIONS:
                self._selections.clear()
            self._selections[requests] = selection
        return selection

    def _push(self, push: pb.Push, arrival: float) -> None:
        numbers: Sequence[int] = push.sessions
        kind = push.WhichOneof("elements")
        if kind is None or not numbers:
            raise InvalidRequest(
                "a push has no elements; set `text` or `raw`"
                if numbers
                else "a push names no session in `sessions`"
            )
        if push.counts and len(push.counts) != len(numbers):
            raise InvalidRequest(
                f"a push has {len(push.counts)} counts for {len(numbers)} sessions; allowed are as "
                "many, or none"
            )
        try:
            decoded = self._model.codec.decode(push.text if kind == "text" else push.raw)
            counts = _shares(len(decoded.elements), len(numbers), push.counts)
        except InvalidElement as error:
            ending = Ending(reason=EndReason.INVALID_ELEMENT, message=str(error))
            for number in numbers:
                session = self._pushable(number)
                if session is not None:
                    self._engine.close(session, ending)
            return
        if decoded.invalid is None:
            if len(numbers) >= _MANY and self._push_many(numbers, counts, decoded, arrival):
                return
            sessions = [self._sessions.get(number) for number in numbers]
            if _all_take_elements(sessions):
                self._queue(sessions, counts, decoded.elements, arrival)
                return
        start = 0
        for number, count in zip(numbers, counts, strict=True):
            self._push_one(number, decoded, slice(start, start + count), arrival)
            start += count

    def _push_many(
        self, numbers: Sequence[int], counts: Sequence[int], decoded: Decoded, arrival: float
    ) -> bool:
        """False, and nothing is pushed, if not all of the sessions take elements, or get any, or if
        their predictions do not go out together."""
        shares = np.array(counts, np.int64)
        if np.count_nonzero(shares) < len(shares):
            return False
        found = self._roster.find(np.array(numbers, np.int64))
        if found is None:
            return False
        receiver, rows = found
        most = self._engine.push_rows(receiver, rows, shares, decoded.elements, arrival)
        if most > self._window:
            self._watch_windows(self._sessions[number] for number in numbers)
        return True

    def _push_one(self, number: int, decoded: Decoded, part: slice, arrival: float) -> None:
        session = self._pushable(number)
        if session is None:
            return
        invalid = decoded.invalid
        if invalid is not None and invalid[part].any():
            offset = int(invalid[part].argmax())
            position = session.position + session.unanswered + offset
            reason = self._model.codec.explain(decoded, part.start + offset)
            message = f"element at position {position}: {reason}"
            self._engine.close(session, Ending(reason=EndReason.INVALID_ELEMENT, message=message))
            return
        elements = decoded.elements[part]
        self._queue([session], [len(elements)], elements, arrival)

    def _queue(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, arrival: float
    ) -> None:
        most = self._engine.push(sessions, counts, elements, arrival)
        if most > self._window:
            self._watch_windows(sessions)

    def _watch_windows(self, sessions: Iterable[Session]) -> None:
        self._beyond_window.update(
            session for session in sessions if session.unanswered > self._window
        )

    def _ask_for_ticket(self, number: int) -> None:
        """Of one that has ended nothing more can be told."""
        session = self._sessions.get(number)
        if session is None:
            if number > self._last_number:
                text = f"ticket of session {number}, which was never opened on this RPC"
                self._refuse(number, InvalidRequest(text))
        elif self._model.tickets.available:
            self._engine.snapshot(session)
        else:
            self._outbox.snapshot(session, Snapshot(position=session.position, tensors=None))
            self._changed.set()

    def _close(self, number: int) -> None:
        """A second close changes nothing: the first, or the session's end, may have crossed it."""
        session = self._sessions.get(number)
        if session is not None:
            self._engine.close(session)
        elif number > self._last_number:
            text = f"close of session {number}, which was never opened on this RPC"
            self._refuse(number, InvalidRequest(text))

    def _pushable(self, number: int) -> Session | None:
        """The session of that number, if it takes elements. If not, its client is told, unless it
        was the server that is ending it: then the client could not know."""
        session = self._sessions.get(number)
        if session is None:
            known = number <= self._last_number
            state = "has ended" if known else "was never opened on this RPC"
            self._refuse(number, InvalidRequest(f"push to session {number}, which {state}"))
            return None
        ending = session.ended or session.closing
        if ending is None:
            return session
        if ending.reason is EndReason.FINISHED and session.ended is None:
            self._engine.drop(
                session,
                Ending(
                    reason=EndReason.INVALID_REQUEST,
                    message=f"push to session {number} after its close",
                ),
            )
        return None

    def _responses(self) -> Iterator[bytes]:
        """What there is to tell. Refusals are taken together with the mail: a later one must not
        overtake what the next mail has to tell of its session."""
        mail = self._engine.collect(self._outbox)
        refused, self._refused, self._refused_nbytes = self._refused, [], 0
        for session, _ in mail.ended:
            del self._sessions[session.number]
        self._readable.set()
        return self._packer.pack(mail, refused)

    def _handed_over(self, times: Times) -> None:
        self._model.metrics.delivered(self._engine.now() - times)


def _shares(elements: int, sessions: int, counts: Sequence[int]) -> Sequence[int]:
    """How many elements each session gets. Raises `InvalidElement` if they do not come out even."""
    if counts:
        if sum(counts) != elements:
            raise InvalidElement(f"{elements} elements came; the counts add up to {sum(counts)}")
        return counts
    if elements % sessions:
        raise InvalidElement(
            f"{elements} elements came for {sessions} sessions; without counts, every session gets "
            "the same number"
        )
    return [elements // sessions] * sessions


def _all_take_elements(sessions: list[Session | None]) -> TypeGuard[list[Session]]:
    for session in sessions:
        if session is None or session.closing is not None or session.ended is not None:
            return False
    return True
