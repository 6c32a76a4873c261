"""One Stream RPC: sessions, incoming frames and outgoing responses.

The reader turns frames into calls of the engine; the writer turns the outbox into frames. While a
write is under way, the engine's results gather in the outbox and go out with the next write.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf

from elman.v1 import inference_pb2 as pb
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.admission import Admission
from elman_server.engine.arrays import Times
from elman_server.engine.ending import CANCELLED, Ending, EndReason
from elman_server.engine.initial_state import InitialState
from elman_server.engine.mail import Opened
from elman_server.engine.outbox import Outbox
from elman_server.engine.request import OpenRequest
from elman_server.engine.session import Session
from elman_server.engine.snapshot import NEVER, Cadence, Snapshot
from elman_server.errors import (
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ShuttingDown,
    SlowClient,
)
from elman_server.frontend.caller import Caller
from elman_server.frontend.turns import Slices, Turns
from elman_server.frontend.wire import closing, messages
from elman_server.frontend.wire.frames import FramePacker
from elman_server.frontend.wire.naming import NamedOpen, Naming
from elman_server.frontend.wire.pushing import Payload, Pushing, payload
from elman_server.frontend.wire.ticketing import Ticketing
from elman_server.frontend.withheld import NamedAnswers, Withheld
from elman_server.model.selection import OutputRequest, Selection
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import ELEMENT_LATENCY, SESSIONS_REJECTED, SESSIONS_RESUMED

_OLD = "the connection has reached its age; connect anew"
_MOVED = Ending(
    reason=EndReason.MOVED,
    message="the connection has reached its age; the session goes on from its ticket on another",
)

Write = Callable[[bytes], Coroutine[None, None, None]]
"""Sends a serialized `StreamResponse`."""

_STAY_SECONDS = 60.0
"""Longest time between two checks whether the model lets the RPC hand its sessions over."""
_LAST_SECONDS = 1.0
"""Extra time for a client that does not read to take its last tickets."""
_KNOWN_SELECTIONS = 64
_FIRST_FRAME_BYTES = 64 * 1024
_AT_ONCE_SECONDS = 0.25
_FEW = 16
"""Most opens, closes and ticket requests in a frame handled at once, without slices."""
_MAX_ENTRIES = 65_536
"""Most entries of a frame: entries take memory until the frame is handled."""
_LEAST_PENDING = 65_536
"""Threshold: at this number of waiting elements, the RPC pauses the handling of a frame, unless all
windows together allow more elements. Large enough to keep the model busy meanwhile."""


class StreamRpc:
    def __init__(
        self,
        *,
        model: ServedModel,
        admission: Admission,
        caller: Caller,
        lease_keeper: LeaseKeeper | None,
        turns: Turns,
        withheld: Withheld,
        window: int,
        max_message_bytes: int,
        max_age: float = inf,
        grace: float = 0.0,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        """`opening` is called before each session is opened and may refuse the session. After
        `max_age` seconds, the RPC hands over all sessions, with `grace` seconds to answer the
        elements already pushed."""
        self._model = model
        self._turns = turns
        self._withheld = withheld
        self._ticketing = Ticketing(model, caller)
        self._naming = Naming(model, caller, lease_keeper)
        self._lease_keeper = lease_keeper
        self._max_age = max_age if model.tickets.available else inf
        self._grace = grace
        self._opening = opening
        self._leaving = False
        self._given_up: SlowClient | None = None
        self._engine = model.engine
        self._admission = admission
        self._window = window
        self._max_message_bytes = max_message_bytes
        self._frame_bytes = max_message_bytes // 4
        self._outbox = Outbox(limit=self._frame_bytes, notify=self.notify)
        self._changed = asyncio.Event()
        self._readable = asyncio.Event()
        self._named: NamedAnswers | None = None
        """None before the RPC's first named session."""
        self._sessions: dict[int, Session] = {}
        self._session_index = self._engine.session_index(self._outbox)
        self._session_indexes = [self._session_index]
        self._last_number = -1
        self._last_before_frame: float = inf
        """The last session number before the frame being taken in slices; infinite without such a
        frame."""
        self._dismissed = False
        self._beyond_window: set[Session] = set()
        self._pushing = Pushing(
            model=model,
            sessions=self._sessions,
            session_indexes=self._session_indexes,
            window=window,
            beyond_window=self._beyond_window,
            refuse=self._refuse_push,
        )
        self._packer = FramePacker(
            max_bytes=min(_FIRST_FRAME_BYTES, self._frame_bytes),
            opened=self._opened,
            ticket=self._ticketing.issue,
            handed_over=self._handed_over,
        )
        self._refused: list[pb.Closed] = []
        self._refused_nbytes = 0
        self._frame_nbytes = 0
        """Size of the frame held in memory; 0 without such a frame."""
        self._mail_nbytes = 0
        """Size of the responses being written."""
        self._selections: dict[tuple[OutputRequest, ...], Selection] = {}

    def notify(self) -> None:
        """Wakes the reader and the writer after a change in the outbox, a queue or the server."""
        self._changed.set()
        self._readable.set()

    def detach(self, model: ServedModel) -> None:
        """Stops opening sessions if the unloaded `model` is the RPC's model.

        All sessions of the RPC have ended by then, but the client may not know of every end yet.
        """
        if model is self._model:
            self._dismissed = True
            self.notify()

    async def run(
        self, first: pb.StreamRequest, requests: AsyncIterator[pb.StreamRequest], write: Write
    ) -> None:
        """Serves the RPC to its end. Raises a `ServerError` for an error of the whole RPC."""
        self._task = asyncio.current_task()
        reader = asyncio.create_task(self._read(first, requests))
        reader.add_done_callback(self._read_all)
        leave = asyncio.create_task(self._leave_in_time())
        try:
            await self._write(reader, write)
            if reader.done():
                reader.result()
            else:
                raise self._ended()
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            raise self._given_up from None
        finally:
            reader.cancel()
            leave.cancel()
            self._admission.forget(self.notify)
            # All sessions end, even if this task is cancelled meanwhile.
            await self._turns.finish(self._abandon())

    async def _abandon(self) -> None:
        """Ends all sessions without notifying the client."""
        outboxes = [self._outbox]
        if self._named is not None:
            self._named.abandon()
            outboxes.append(self._named.outbox)
        for outbox in outboxes:
            outbox.limit = inf
        async for session in self._turns.over(list(self._sessions.values())):
            self._engine.drop(session, CANCELLED)
        for outbox in outboxes:
            self._engine.collect(outbox)

    @property
    def unread_nbytes(self) -> int:
        """Bytes held in memory until the client reads."""
        waiting = sum(outbox.pending for outbox in self._outboxes) * self._engine.element_nbytes
        unread = sum(outbox.nbytes for outbox in self._outboxes)
        return unread + self._mail_nbytes + self._frame_nbytes + waiting

    def give_up(self, why: str) -> None:
        """Ends the RPC because the client does not read."""
        if self._task is not None:
            self._given_up = SlowClient(why)
            self._task.cancel()

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
                # To the reader, a broken connection looks like a half-close. A write would fail.
                await write(b"")
                half_closed = True
                async for session in self._turns.over(list(self._sessions.values())):
                    self._engine.close(session)
                continue
            if not self._sessions and (
                reader.done() or self._admission.closed or self._leaving or self._dismissed
            ):
                return
            await self._changed.wait()

    async def _tell(self, write: Write) -> None:
        """Writes all waiting responses. For named sessions, each frame is checked against the fence
        immediately before the write."""
        first = True
        for response in self._responses() if self._named is None else self._frames():
            if 2 * len(response) < self._packer.max_bytes:
                await write(response)
            else:
                began = self._engine.now()
                await write(response)
                self._fit_frames(self._engine.now() - began)
            if not first:
                await self._turns.next()
            first = False
        self._mail_nbytes = 0

    def _frames(self) -> Iterator[bytes]:
        yield from self._responses()
        if self._named is not None:
            while (frame := self._named.next()) is not None:
                self._mail_nbytes = self._named.mail_nbytes
                yield frame
            self._readable.set()

    def _fit_frames(self, seconds: float) -> None:
        """Doubles the frame size after a quick write of a large frame; halves the size after a slow
        write. If the client does not read, gRPC keeps written frames until the connection ends."""
        most = self._packer.max_bytes
        if seconds < _AT_ONCE_SECONDS:
            self._packer.max_bytes = min(2 * most, self._frame_bytes)
        elif most > _FIRST_FRAME_BYTES:
            self._packer.max_bytes = most // 2

    def _ended(self) -> ServerError:
        """Returns the reason why the server ends the RPC."""
        if self._admission.closed:
            return ShuttingDown("the server is stopping")
        if self._leaving:
            return ShuttingDown(_OLD)
        return ModelUnavailable(f"{self._model} was unloaded")

    async def _leave_in_time(self) -> None:
        """Hands the sessions over when the RPC reaches its maximum age."""
        if self._max_age == inf:
            return
        await asyncio.sleep(self._max_age)
        while self._engine.pinned:
            await asyncio.sleep(min(self._max_age, _STAY_SECONDS))
        self._leaving = True
        async for session in self._turns.over(list(self._sessions.values())):
            self._engine.close(session, _MOVED)
        self.notify()
        await asyncio.sleep(self._grace)
        async for session in self._turns.over(list(self._sessions.values())):
            self._engine.cut(session, _MOVED)
        await asyncio.sleep(_LAST_SECONDS)
        async for session in self._turns.over(list(self._sessions.values())):
            self._engine.abort(session, _MOVED.without_snapshot)

    def _read_all(self, reader: "asyncio.Task[None]") -> None:
        if not reader.cancelled():
            reader.exception()  # retrieved, so asyncio does not log the error of a broken RPC
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
            reason = EndReason.INVALID_REQUEST
            if isinstance(error, Overloaded):
                reason = EndReason.UNAVAILABLE
            ending = Ending(reason=reason, message=str(error))
            async for session in self._turns.over(list(self._sessions.values())):
                self._engine.drop(session, ending)
            raise

    async def _take_when_there_is_room(self, request: pb.StreamRequest) -> None:
        push = request.push
        elements = payload(push)
        if not self._fits(elements):
            with self._held(request):
                while not self._fits(elements):
                    await self._change()
        others = len(request.opens) + len(request.closes) + len(request.tickets)
        entries = others + len(push.sessions)
        if entries > _MAX_ENTRIES:
            raise InvalidRequest(
                f"a frame names sessions {entries} times; allowed is {_MAX_ENTRIES}"
            )
        arrival = self._engine.now()
        if others <= _FEW and self._pushing.is_short(push, elements):
            self._take(request, elements, arrival)
        else:
            with self._held(request):
                await self._take_in_slices(request, elements, arrival)
        while not self._wants_more():
            await self._change()

    @contextmanager
    def _held(self, request: pb.StreamRequest) -> Iterator[None]:
        """Counts a frame as held in memory. Raises `Overloaded` if frames hold too many bytes."""
        self._frame_nbytes = request.ByteSize()
        try:
            with self._admission.hold_frame(self._frame_nbytes):
                yield
        finally:
            self._frame_nbytes = 0

    async def _change(self) -> None:
        self._readable.clear()
        self._admission.wait(self.notify)
        await self._readable.wait()

    def _fits(self, elements: Payload) -> bool:
        """Whether a push can be taken. A crowded server still takes a small push of an RPC without
        waiting elements, so bulk traffic does not block single elements."""
        if not self._admission.crowded:
            return True
        pending = any(outbox.pending for outbox in self._outboxes)
        return not pending and self._model.codec.count(elements) <= self._window

    @property
    def _outboxes(self) -> Sequence[Outbox]:
        """Outboxes with an influence on how much the RPC reads. While named sessions wait for the
        state store, the outbox of named sessions is left out: windows limit the elements already,
        and the RPC's other sessions must not be blocked."""
        if self._named is None or self._named.withheld:
            return (self._outbox,)
        return (self._outbox, self._named.outbox)

    @property
    def _has_room(self) -> bool:
        """Whether more of a frame can be taken."""
        most = max(_LEAST_PENDING, self._window * len(self._sessions))
        return not (
            self._refused_nbytes > self._frame_bytes
            or self._is_full
            or any(outbox.pending >= most for outbox in self._outboxes)
            or self._is_crowded
        )

    @property
    def _is_full(self) -> bool:
        """Whether too many bytes of responses wait to be sent."""
        return self._outbox.full or (self._named is not None and self._named.full)

    @property
    def _is_crowded(self) -> bool:
        """Whether the server is crowded, in part by waiting elements of the RPC."""
        for outbox in self._outboxes:
            if outbox.pending:
                return self._admission.crowded
        return False

    async def _room(self) -> None:
        self._changed.set()  # the writer sends refusals meanwhile
        while not self._has_room:
            await self._change()

    def _wants_more(self) -> bool:
        """Whether the next frame may be read."""
        contexts_nbytes = self._outbox.contexts_nbytes
        # Contexts of named sessions wait for the state store. They delay other sessions of the RPC
        # only when contexts crowd the whole server.
        named_nbytes = 0 if self._named is None else self._named.outbox.contexts_nbytes
        return not (
            self._is_beyond_window()
            or self._is_full
            or contexts_nbytes > self._frame_bytes
            or ((contexts_nbytes or named_nbytes) and self._admission.crowded_by_contexts)
            or self._refused_nbytes > self._frame_bytes
            or self._is_crowded
        )

    def _is_beyond_window(self) -> bool:
        """Whether a session has more unanswered elements than the window. Stops at the first such
        session, because the check runs after each step."""
        while self._beyond_window:
            session = self._beyond_window.pop()
            if session.ended is None and session.unanswered > self._window:
                self._beyond_window.add(session)
                return True
        return False

    def _take(self, request: pb.StreamRequest, elements: Payload, arrival: float) -> None:
        for message in request.opens:
            self._open(message)
        if request.HasField("push"):
            self._pushing.take(request.push, elements, arrival)
        for number in request.tickets:
            self._ask_for_ticket(number)
        for number in request.closes:
            self._close(number)
        if self._refused:
            self._changed.set()

    async def _take_in_slices(
        self, request: pb.StreamRequest, elements: Payload, arrival: float
    ) -> None:
        """Takes a large frame, with turns for other work between entries."""
        self._last_before_frame = self._last_number
        work = self._turns.slices()
        for message in request.opens:
            await self._pause(work)
            self._open(message)
        if request.HasField("push"):
            await self._pushing.take_in_slices(request.push, elements, arrival, work, self._pause)
        for number in request.tickets:
            await self._pause(work)
            self._ask_for_ticket(number)
        for number in request.closes:
            await self._pause(work)
            self._close(number)
        self._last_before_frame = inf
        if self._refused:
            self._changed.set()

    async def _pause(self, work: Slices) -> None:
        """Ends a slice if its time is over. Returns when there is room for the next slice."""
        if work.over:
            if self._refused:
                self._changed.set()
            await work.pause()
        if not self._has_room:
            await self._room()

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
            self._admit_open()
            given, wanted = self._beginning(message)
            session = self._engine.open(
                OpenRequest(
                    number=number,
                    outbox=self._outbox if wanted is None else self._named_answers().outbox,
                    selection=self._selection(message.outputs),
                    initial_state=given if wanted is None else wanted.given,
                    awaited=wanted is not None,
                    cadence=self._ticketing.cadence(message),
                    parkable=message.parkable and self._model.tickets.available,
                )
            )
        except ServerError as error:
            self._refuse(number, error)
            return
        self._sessions[number] = session
        session_index = (
            self._session_index if wanted is None else self._named_answers().session_index
        )
        session_index.add(session)
        if isinstance(given, Snapshot):
            self._model.metrics.inc(SESSIONS_RESUMED)
        if wanted is not None:
            self._naming.begin(session, wanted)

    def _admit_open(self) -> None:
        try:
            self._opening()
        except Overloaded as error:
            self._model.metrics.inc(SESSIONS_REJECTED, by=error.reason)
            raise

    def _beginning(self, message: pb.Open) -> tuple[InitialState | None, NamedOpen | None]:
        """Returns a session's initial state or, for a named session, the checked request for the
        lookup. Raises a `ServerError`."""
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

    def _named_answers(self) -> NamedAnswers:
        if self._named is None:
            assert self._lease_keeper is not None
            self._named = NamedAnswers(
                engine=self._engine,
                lease_keeper=self._lease_keeper,
                packer=self._packer,
                limit=self._frame_bytes,
                of_all=self._withheld,
                notify=self.notify,
                told=self._told,
            )
            self._session_indexes.append(self._named.session_index)
        return self._named

    def _told(self, number: int) -> None:
        del self._sessions[number]

    def _opened(self, event: Opened) -> pb.Opened:
        every = event.cadence or Cadence()
        return pb.Opened(
            session=event.number,
            id=event.id,
            window=self._window,
            position=event.first_position,
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
        closed = closing.refused(number, error)
        self._refused.append(closed)
        self._refused_nbytes += closed.ByteSize()

    def _selection(self, outputs: Iterable[pb.OutputRequest]) -> Selection:
        """Returns the selection of outputs. Sessions with equal requests share an object, so their
        predictions are packed together. Raises `InvalidRequest`."""
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
            self._changed.set()

    def _close(self, number: int) -> None:
        """Closes a session. Ignored after the session's end or an earlier close, because either may
        have crossed the client's close."""
        session = self._sessions.get(number)
        if session is not None:
            self._engine.close(session)
        elif number > self._last_number:
            text = f"close of session {number}, which was never opened on this RPC"
            self._refuse(number, InvalidRequest(text))

    def _responses(self) -> Iterator[bytes]:
        """Takes mail and refusals, and packs both into frames. Both are taken together: a later
        refusal must not overtake the next mail about the same session."""
        self._mail_nbytes = self._outbox.nbytes
        mail = self._engine.collect(self._outbox)
        refused, self._refused, self._refused_nbytes = self._refused, [], 0
        for ended in mail.ended:
            self._told(ended.number)
        self._readable.set()
        return self._packer.pack(mail, refused)

    def _handed_over(self, times: Times) -> None:
        self._model.metrics.observe(ELEMENT_LATENCY, self._engine.now() - times)
