"""A `Multiplexer` on a real Stream RPC, for asyncio.

A writer task writes a frame at a time: elements pushed during a write are collected for the next
frame. A reader task reads the answers. Both tasks end with the RPC.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from grpc import aio

from elman._core.models import KnownModel
from elman._core.options import Metadata
from elman._core.recovery.orphan import Orphan
from elman._core.rpc.multiplexer import Multiplexer
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.deadline import Deadline
from elman._core.session.session import Operation, Session
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._wire.channel import Channel
from elman._wire.status import server_name, server_of, stream_error
from elman.aio._alarm import Alarm
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")

Call = aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]


class SessionHandle:
    """A session, and the futures of the tasks waiting for a change of the session."""

    __slots__ = ("_alarm", "_home", "_loop", "_waiters", "session")

    def __init__(
        self, home: Home, multiplexer: Multiplexer, options: SessionOptions, alarm: Alarm
    ) -> None:
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._alarm = alarm
        self._waiters: list[asyncio.Future[None]] = []
        self.session = multiplexer.open(options, self._wake)

    async def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Runs an operation to its end and waits where needed. Raises `DeadlineExceeded`."""
        self._home.check()
        try:
            while True:
                owed = next(operation)
                waiter = self._alarm.waiter(deadline.at(owed))
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    self._alarm.forget(waiter)
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        finally:
            operation.close()

    def close(self) -> None:
        if not self._home.forked:
            self._home.check()
            self.session.close()

    def drop(self) -> bool:
        """Closes the session from a finaliser, which may run anywhere, in any thread.

        Returns False if the session belongs to another process, or if its loop is closed.
        """
        if self._home.forked or self._loop.is_closed():
            return False
        self._loop.call_soon_threadsafe(self.session.close)
        return True

    def _wake(self) -> None:
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()


class Rpc:
    """A Stream call, from the first session to the last."""

    def __init__(
        self,
        channels: ServerChannels[Channel[aio.Channel]],
        known: KnownModel,
        alarm: Alarm,
        *,
        metadata: Metadata,
        max_frame_bytes: int,
        orphans: Callable[["Rpc", Session, Orphan], bool],
        succeeded: Callable[[], None],
        got_on: Callable[[Session], None],
        ended: Callable[["Rpc", ElmanError | None], None],
    ) -> None:
        """Starts the call. `orphans`, `succeeded` and `got_on` are the multiplexer's callbacks.

        `ended` is called at the end of the call, with the error if the call ended before its
        sessions.
        """
        self.server_channel = channels.lease()
        self.answered = False
        """Whether the server has sent an answer."""
        self.server = self.server_channel.target
        """The server's target; after the first answer, the server's own name."""
        self._channels = channels
        self._alarm = alarm
        self._writable = asyncio.Event()
        self._multiplexer = Multiplexer(
            known,
            writable=self._writable.set,
            orphans=lambda session, orphan: orphans(self, session, orphan),
            succeeded=succeeded,
            got_on=got_on,
            max_frame_bytes=max_frame_bytes,
        )
        self._ended = ended
        self._over = False
        """Whether `ended` was called."""
        start: Any = self.server_channel.channel.stub.Stream
        call: Call = start(metadata=metadata)
        self._call: Call | None = call
        """None after the call's end: gRPC keeps a connection open while a call object exists."""
        self._writer = asyncio.create_task(self._write(call), name="elman-writer")
        self._reader = asyncio.create_task(self._read(call), name="elman-reader")

    @property
    def open(self) -> bool:
        """Whether the RPC accepts more sessions."""
        multiplexer = self._multiplexer
        return not (multiplexer.finished or multiplexer.leaving or self.server_channel.retired)

    def handle(self, home: Home, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        return SessionHandle(home, self._multiplexer, options, self._alarm)

    def adopt(self, session: Session) -> None:
        """Takes over an orphan: a session without an RPC."""
        self._multiplexer.adopt(session)

    def close_sessions(self) -> None:
        self._multiplexer.close_sessions()

    async def join(self, timeout: float) -> None:
        """Waits until the RPC has no more sessions."""
        await asyncio.wait([self._reader], timeout=timeout)

    def abort(self, error: ElmanError, *, final: bool = True) -> set[asyncio.Task[None]]:
        """Ends the RPC at once, even if gRPC returns from the call later.

        If `final`, the RPC's sessions raise `error`. Otherwise, they may resume on another RPC.
        Returns the tasks about to end.
        """
        call = self._call
        self._end(error, final=final)
        if call is not None:
            call.cancel()
        # The writer may be waiting for a connection; cancelling the call does not wake it.
        self._writer.cancel()
        return {self._reader, self._writer}

    def _end(self, error: ElmanError, *, final: bool = False) -> None:
        """Fails the remaining sessions and calls `ended`, once."""
        if self._over:
            return
        self._over = True
        early = not self._multiplexer.finished
        self._multiplexer.fail(error, final=final)
        try:
            self._ended(self, error if early else None)
        finally:
            self._call = None
            # When its last user gives a retired channel back, the connection is closed.
            self._channels.give_back(self.server_channel)

    async def _write(self, call: Call) -> None:
        try:
            while not self._multiplexer.finished:
                frame = self._multiplexer.take()
                if frame is None:
                    self._writable.clear()
                    await self._writable.wait()
                else:
                    await call.write(frame)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            # The call has ended; the reader gets the reason.
            pass
        except Exception as bug:
            error = ServerError(f"the client failed to write a frame: {bug!r}")
            self._multiplexer.fail(error, final=True)
            call.cancel()

    async def _read(self, call: Call) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        final = False
        try:
            async for response in call:
                if self._over:
                    # The call was cancelled. Its iterator keeps the call until the iterator's end.
                    continue
                if not self.answered:
                    self.answered = self.server_channel.worked = True
                    # Initial metadata arrives before the first answer.
                    self.server = server_name(await call.initial_metadata()) or self.server
                self._multiplexer.receive(response)
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
            self.server = server_of(status) or self.server
        except asyncio.CancelledError:
            error = Unavailable("the RPC was cancelled")
            # Cancelled is either the call or this task. All tasks are cancelled when the loop ends:
            # then no session can be resumed.
            task = asyncio.current_task()
            final = task is not None and task.cancelling() > 0
        except ServerError as broken:
            error = broken
        finally:
            try:
                self._end(error, final=final)
            finally:
                call.cancel()
