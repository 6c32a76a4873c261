"""A `Multiplexer` on a real Stream RPC, for asyncio.

One task writes, one frame at a time, so that what is pushed while a write is in flight gathers for
the next; one task reads. Both end with the RPC.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc
from grpc import aio

from elman._deadline import Deadline
from elman._models import KnownModel
from elman._multiplexer import Multiplexer
from elman._session import Operation
from elman._session_options import SessionOptions
from elman._status import stream_error
from elman.aio._alarm import Alarm
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")

Call = aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]


class Line:
    """A session, and where the tasks that use it wait."""

    __slots__ = ("_alarm", "_waiters", "session")

    def __init__(self, multiplexer: Multiplexer, options: SessionOptions, alarm: Alarm) -> None:
        self._alarm = alarm
        self._waiters: list[asyncio.Future[None]] = []
        self.session = multiplexer.open(options, self._wake)

    async def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Does what may have to wait. Raises `DeadlineExceeded`."""
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
        self.session.close()

    def _wake(self) -> None:
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()


class Rpc:
    """`start` makes the call; `broken` is told when it ends before its sessions."""

    def __init__(
        self,
        start: Callable[[], Call],
        known: KnownModel,
        *,
        max_frame_bytes: int,
        broken: Callable[[], None],
    ) -> None:
        self._writable = asyncio.Event()
        self._multiplexer = Multiplexer(
            known, writable=self._writable.set, max_frame_bytes=max_frame_bytes
        )
        self._broken = broken
        self._alarm = Alarm(asyncio.get_running_loop())
        self._call = start()
        self._writer = asyncio.create_task(self._write(), name="elman-writer")
        self._reader = asyncio.create_task(self._read(), name="elman-reader")

    def open(self, options: SessionOptions) -> Line | None:
        """A new session; None if this RPC is over."""
        if self._multiplexer.finished:
            return None
        return Line(self._multiplexer, options, self._alarm)

    def close_sessions(self) -> None:
        self._multiplexer.close_sessions()

    async def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        await asyncio.wait([self._reader], timeout=timeout)

    async def cancel(self, error: ElmanError) -> None:
        """Ends the RPC at once; sessions that have not ended raise `error`."""
        self._multiplexer.fail(error)
        self._call.cancel()
        await asyncio.wait([self._reader, self._writer])

    async def _write(self) -> None:
        try:
            while not self._multiplexer.finished:
                frame = self._multiplexer.take()
                if frame is None:
                    self._writable.clear()
                    await self._writable.wait()
                else:
                    await self._call.write(frame)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            # The call has ended; the reader learns how.
            pass

    async def _read(self) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        try:
            async for response in self._call:
                self._multiplexer.receive(response)
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
        except asyncio.CancelledError:
            error = Unavailable("the RPC was cancelled")
        except ServerError as broken:
            error = broken
        finally:
            finished = self._multiplexer.finished
            self._multiplexer.fail(error)
            self._alarm.stop()
            self._call.cancel()
            if not finished:
                self._broken()
