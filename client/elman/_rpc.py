"""A `Multiplexer` on a real Stream RPC, for threads.

gRPC takes the frames from an iterator, in a thread of its own and one at a time, so that what is
pushed while a write is in flight gathers for the next. One more thread makes the call, where no
signal comes between its parts, and reads the answers. Both are daemons and end with the RPC.
"""

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

import grpc

from elman._deadline import Deadline
from elman._models import KnownModel
from elman._monitor import Monitor, Waiters, rest
from elman._multiplexer import Multiplexer
from elman._session import Operation
from elman._session_options import SessionOptions
from elman._status import stream_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")


class Call(Protocol):
    """What gRPC gives for an RPC under way. Iterating it raises `grpc.RpcError` if that fails."""

    def __iter__(self) -> Iterator[pb.StreamResponse]: ...
    def cancel(self) -> object: ...


class _Guard:
    """Around a change that all sessions share. A Ctrl-C may come between two halves of it: then the
    RPC ends, and the next session gets another."""

    __slots__ = ("_multiplexer",)

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._multiplexer.fail(Unavailable("interrupted in the middle of a change"))


class Line:
    """A session, and where the threads that use it wait."""

    __slots__ = ("_guard", "_waiters", "monitor", "session")

    def __init__(self, monitor: Monitor, multiplexer: Multiplexer, options: SessionOptions) -> None:
        self.monitor = monitor
        self._guard = _Guard(multiplexer)
        self._waiters: Waiters = []
        self.session = multiplexer.open(options, self._wake)

    def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Does what may have to wait. Raises `DeadlineExceeded`."""
        monitor, waiters = self.monitor, self._waiters
        waiter = None
        try:
            while True:
                with monitor.lock:
                    monitor.settle()
                    if waiter is not None:
                        monitor.returned(waiters, waiter)
                        waiter = None
                    with self._guard:
                        owed = next(operation)
                    seconds = deadline.remaining(owed)
                    waiter = monitor.enlist(waiters)
                rest(waiter, seconds)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        finally:
            with monitor.lock:
                if waiter is not None:
                    monitor.returned(waiters, waiter)
                operation.close()

    def close(self) -> None:
        with self.monitor.lock, self._guard:
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
        self._writers: Waiters = []
        self._multiplexer = Multiplexer(
            known, writable=self._wake_writer, max_frame_bytes=max_frame_bytes
        )
        self._guard = _Guard(self._multiplexer)
        self._start = start
        self._broken = broken
        self._call: Call | None = None
        self._reader = threading.Thread(target=self._read, name="elman-reader", daemon=True)

    def open(self, options: SessionOptions) -> Line | None:
        """A new session; None if this RPC is over."""
        with self._monitor.lock, self._guard:
            if self._multiplexer.finished:
                return None
            line = Line(self._monitor, self._multiplexer, options)
            if not self._reader.is_alive():
                self._reader.start()
            return line

    def close_sessions(self) -> None:
        with self._monitor.lock:
            self._multiplexer.close_sessions()

    def join(self, timeout: float | None = None) -> None:
        """Waits until every session has ended."""
        if self._reader.is_alive():
            self._reader.join(timeout)

    def cancel(self, error: ElmanError) -> None:
        """Ends the RPC at once; sessions that have not ended raise `error`."""
        with self._monitor.lock:
            self._multiplexer.fail(error)
            call = self._call
        if call is not None:
            call.cancel()
        self.join()

    def _wake_writer(self) -> None:
        if self._writers:
            self._monitor.wake(self._writers)

    def _frames(self) -> Iterator[pb.StreamRequest]:
        monitor = self._monitor
        while True:
            with monitor.lock:
                monitor.settle()
                frame = self._multiplexer.take()
                if frame is None:
                    if self._multiplexer.finished:
                        return
                    waiter = monitor.enlist(self._writers)
            if frame is not None:
                yield frame
                continue
            rest(waiter, None)
            with monitor.lock:
                monitor.returned(self._writers, waiter)
            # They are about to push their next elements, which then go out together.
            monitor.let_others_return()

    def _begin(self) -> Call:
        call = self._start(self._frames())
        with self._monitor.lock:
            self._call = call
            finished = self._multiplexer.finished
        if finished:
            call.cancel()
        return call

    def _read(self) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        try:
            for response in self._begin():
                with self._monitor.lock:
                    self._monitor.settle()
                    self._multiplexer.receive(response)
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
        except ServerError as broken:
            error = broken
        finally:
            with self._monitor.lock:
                finished = self._multiplexer.finished
                self._multiplexer.fail(error)
            if self._call is not None:
                self._call.cancel()
            if not finished:
                self._broken()
