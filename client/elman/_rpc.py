"""A `Multiplexer` on a real Stream RPC, for threads.

gRPC takes the frames from an iterator, in a thread of its own and one at a time, so that what is
pushed while a write is in flight gathers for the next. One more thread reads the answers. Both are
daemons and end with the RPC.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc

from elman._deadline import Deadline
from elman._models import KnownModel
from elman._monitor import Monitor
from elman._multiplexer import Multiplexer
from elman._outputs import Layout
from elman._session import Operation
from elman._status import rpc_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")


class Call(Protocol):
    """What gRPC gives for an RPC under way. Iterating it raises `grpc.RpcError` if that fails."""

    def __iter__(self) -> Iterator[pb.StreamResponse]: ...
    def cancel(self) -> object: ...


class Line:
    """A session, and where the threads that use it wait."""

    __slots__ = ("_waiters", "monitor", "session")

    def __init__(
        self, monitor: Monitor, multiplexer: Multiplexer, layout: Layout, window: int | None
    ) -> None:
        self.monitor = monitor
        self._waiters: list[threading.Lock] = []
        self.session = multiplexer.open(layout, self._wake, window)

    def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Does what may have to wait. Raises `DeadlineExceeded`."""
        with self.monitor:
            try:
                while True:
                    owed = next(operation)
                    self.monitor.wait(self._waiters, deadline.remaining(owed))
            except StopIteration as result:
                return result.value  # type: ignore[no-any-return]
            finally:
                operation.close()

    def close(self) -> None:
        with self.monitor:
            self.session.close()

    def _wake(self) -> None:
        if self._waiters:
            self.monitor.wake(self._waiters)


class Rpc:
    """`start` makes the call from the frames; `broken` is told when it ends before its sessions."""

    def __init__(
        self,
        start: Callable[[Iterator[pb.StreamRequest]], Call],
        known: KnownModel,
        *,
        max_frame_bytes: int,
        broken: Callable[[], None],
    ) -> None:
        self._monitor = Monitor()
        self._writers: list[threading.Lock] = []
        self._multiplexer = Multiplexer(
            known, writable=self._wake_writer, max_frame_bytes=max_frame_bytes
        )
        self._start = start
        self._broken = broken
        self._call: Call | None = None
        self._reader = threading.Thread(target=self._read, name="elman-reader", daemon=True)

    def open(self, layout: Layout, window: int | None) -> Line | None:
        """A new session; None if this RPC is over."""
        with self._monitor:
            if self._multiplexer.finished:
                return None
            line = Line(self._monitor, self._multiplexer, layout, window)
            if self._call is None:
                self._call = self._start(self._frames())
                self._reader.start()
            return line

    def close_sessions(self) -> None:
        with self._monitor:
            self._multiplexer.close_sessions()

    def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        self._reader.join(timeout)

    def cancel(self, error: ElmanError) -> None:
        """Ends the RPC at once; sessions that have not ended raise `error`."""
        with self._monitor:
            self._multiplexer.fail(error)
        if self._call is not None:
            self._call.cancel()
            self._reader.join()

    def _wake_writer(self) -> None:
        if self._writers:
            self._monitor.wake(self._writers)

    def _frames(self) -> Iterator[pb.StreamRequest]:
        while True:
            with self._monitor:
                while (frame := self._multiplexer.take()) is None:
                    if self._multiplexer.finished:
                        return
                    self._monitor.wait(self._writers)
                    # They are about to push their next elements, which then go out together.
                    self._monitor.let_others_return()
            yield frame

    def _read(self) -> None:
        assert self._call is not None
        error: ElmanError = ServerError("the client failed to read an answer")
        try:
            for response in self._call:
                with self._monitor:
                    self._multiplexer.receive(response)
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = rpc_error(status)
        except ServerError as broken:
            error = broken
        finally:
            with self._monitor:
                finished = self._multiplexer.finished
                self._multiplexer.fail(error)
            self._call.cancel()
            if not finished:
                self._broken()
