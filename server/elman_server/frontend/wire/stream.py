"""One Stream RPC: the reader, the writer and the age of a `Connection` on the native wire.

The reader parses frames for the connection; the writer packs the connection's events into frames.
While a write is under way, events gather in the connection and go out with the next write.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf

from elman.v1 import inference_pb2 as pb
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.admission import Admission
from elman_server.engine.arrays import Times
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.engine.sessions.session import Session
from elman_server.errors import InvalidRequest, ServerError, SlowClient
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.backlog import ConnectionLimits
from elman_server.frontend.connection.connection import Connection
from elman_server.frontend.connection.frame import Frame
from elman_server.frontend.connection.lookup import Lookups
from elman_server.frontend.connection.naming import Naming
from elman_server.frontend.connection.opening import Opener
from elman_server.frontend.connection.slices import Pause
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.frontend.connection.withheld import NamedOutbox, Withheld
from elman_server.frontend.turns import Turns
from elman_server.frontend.wire import messages
from elman_server.frontend.wire.frames import FramePacker, NamedFrames
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import ELEMENT_LATENCY

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
_FIRST_FRAME_BYTES = 64 * 1024
_AT_ONCE_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    window: int
    max_message_bytes: int
    max_age: float = inf
    """Seconds after which the RPC hands over all sessions."""
    grace: float = 0.0
    """Seconds for the hand-over, to answer the elements already pushed."""

    @property
    def frame_bytes(self) -> int:
        return self.max_message_bytes // 4


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
        limits: StreamLimits,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        """`opening` is called before each session is opened and may refuse the session."""
        self._model = model
        self._turns = turns
        self._engine = model.engine
        self._admission = admission
        self._limits = limits
        self._changed = asyncio.Event()
        self._readable = asyncio.Event()
        ticketing = Ticketing(model, caller)
        naming = Naming(model, caller, ticketing, available=lease_keeper is not None)

        def named_outbox() -> NamedOutbox:
            assert lease_keeper is not None
            return NamedOutbox(
                engine=model.engine,
                lease_keeper=lease_keeper,
                limit=limits.frame_bytes,
                of_all=withheld,
                notify=self.notify,
            )

        self._connection = Connection(
            model=model,
            admission=admission,
            opener=Opener(
                model=model,
                ticketing=ticketing,
                naming=naming,
                admit=opening,
                max_message_bytes=limits.max_message_bytes,
            ),
            named_outbox=named_outbox,
            lookup=Lookups(model, ticketing, lease_keeper).begin,
            limits=ConnectionLimits(window=limits.window, nbytes=limits.frame_bytes),
            notify=self.notify,
        )
        self._packer = FramePacker(
            ticketing=ticketing,
            window=limits.window,
            max_bytes=min(_FIRST_FRAME_BYTES, limits.frame_bytes),
            sent=self._sent,
        )
        self._named_frames: NamedFrames | None = None
        self._task: asyncio.Task[None] | None = None
        self._given_up: SlowClient | None = None
        self._frame_nbytes = 0
        """Size of the frame held in memory; 0 without such a frame."""
        self._mail_nbytes = 0
        """Size of the responses being written."""

    def notify(self) -> None:
        """Wakes the reader and the writer after a change in the outbox, a queue or the server."""
        self._changed.set()
        self._readable.set()

    def detach(self, model: ServedModel) -> None:
        """Stops opening sessions if the unloaded `model` is the RPC's model."""
        self._connection.detach(model)

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
                raise self._connection.ended
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
        self._connection.lift_limits()
        await self._each(self._connection.drop)
        self._connection.abandon()

    async def _each(self, act: Callable[[Session], None]) -> None:
        async for session in self._turns.over(self._connection.sessions):
            act(session)

    @property
    def unread_nbytes(self) -> int:
        """Bytes held in memory until the client reads."""
        return self._connection.backlog.nbytes + self._mail_nbytes + self._frame_nbytes

    def give_up(self, why: str) -> None:
        """Ends the RPC because the client does not read."""
        if self._task is not None:
            self._given_up = SlowClient(why)
            self._task.cancel()

    async def _leave_in_time(self) -> None:
        """Hands the sessions over when the RPC reaches its maximum age."""
        max_age = self._limits.max_age if self._model.tickets.available else inf
        if max_age == inf:
            return
        await asyncio.sleep(max_age)
        while self._engine.pinned:
            await asyncio.sleep(min(max_age, _STAY_SECONDS))
        self._connection.leaving = True
        await self._each(partial(self._engine.close, ending=_MOVED))
        self.notify()
        await asyncio.sleep(self._limits.grace)
        await self._each(partial(self._engine.cut, ending=_MOVED))
        await asyncio.sleep(_LAST_SECONDS)
        await self._each(partial(self._engine.abort, ending=_MOVED.without_snapshot))

    # The writer.

    async def _write(self, reader: "asyncio.Task[None]", write: Write) -> None:
        half_closed = False
        while True:
            self._changed.clear()
            await self._send(write)
            if self._changed.is_set():
                continue
            if reader.done() and reader.exception() is not None:
                return
            if reader.done() and not self._connection.empty and not half_closed:
                # To the reader, a broken connection looks like a half-close. A write would fail.
                await write(b"")
                half_closed = True
                await self._each(self._engine.close)
                continue
            if self._connection.empty and (reader.done() or self._connection.closing):
                return
            await self._changed.wait()

    async def _send(self, write: Write) -> None:
        """Writes all waiting responses. For named sessions, each frame is checked against the fence
        immediately before the write."""
        first = True
        for response in self._responses() if self._connection.named is None else self._frames():
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

    def _responses(self) -> Iterator[bytes]:
        self._mail_nbytes = self._connection.mail_nbytes
        mail, refusals = self._connection.collect()
        self._readable.set()
        return self._packer.pack(mail, refusals)

    def _frames(self) -> Iterator[bytes]:
        yield from self._responses()
        named = self._connection.named
        if named is not None:
            if self._named_frames is None:
                self._named_frames = NamedFrames(named, self._named_responses)
            while (frame := self._named_frames.next()) is not None:
                self._mail_nbytes = self._named_frames.mail_nbytes
                yield frame
            self._readable.set()

    def _named_responses(self, mail: Mail) -> Iterator[bytes]:
        yield from self._packer.pack(mail)
        for ended in mail.ended:
            self._connection.forget(ended.number)

    def _sent(self, times: Times) -> None:
        self._model.metrics.observe(ELEMENT_LATENCY, self._engine.now() - times)

    def _fit_frames(self, seconds: float) -> None:
        """Doubles the frame size after a quick write of a large frame; halves the size after a slow
        write. If the client does not read, gRPC keeps written frames until the connection ends."""
        most = self._packer.max_bytes
        if seconds < _AT_ONCE_SECONDS:
            self._packer.max_bytes = min(2 * most, self._limits.frame_bytes)
        elif most > _FIRST_FRAME_BYTES:
            self._packer.max_bytes = most // 2

    # The reader.

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
            await self._each(partial(self._connection.drop, error=error))
            raise

    async def _take_when_there_is_room(self, request: pb.StreamRequest) -> None:
        frame = messages.frame(request)
        connection, backlog = self._connection, self._connection.backlog
        if not backlog.fits(frame):
            with self._held(request):
                while not backlog.fits(frame):
                    await self._change()
        arrival = self._engine.now()
        if connection.is_short(frame):
            connection.take(frame, arrival)
        else:
            with self._held(request):
                await self._take_in_slices(frame, arrival)
        if connection.refusals:
            self._changed.set()
        while not backlog.wants_more:
            await self._change()

    async def _take_in_slices(self, frame: Frame, arrival: float) -> None:
        """Takes a large frame, with turns for other work between entries."""
        connection, backlog = self._connection, self._connection.backlog
        work = self._turns.slices()
        with closing(connection.slices(frame, arrival)) as slices:
            for pause in slices:
                if work.over:
                    if connection.refusals:
                        self._changed.set()
                    await work.pause()
                if pause is Pause.ROOM and not backlog.has_room:
                    self._changed.set()  # the writer sends refusals meanwhile
                    while not backlog.has_room:
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
