"""A `Multiplexer` on a real Stream RPC, for threads.

gRPC takes the frames from an iterator, a frame at a time and in gRPC's own thread: elements pushed
during a write are collected for the next frame. A second thread starts the call and reads the
answers. In a thread other than the main thread, no signal interrupts the start of a call. Both
threads are daemons and end with the RPC.
"""

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc

from elman._core.models import KnownModel
from elman._core.options import Metadata
from elman._core.recovery.orphan import Orphan
from elman._core.rpc.multiplexer import Multiplexer
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.deadline import Deadline
from elman._core.session.session import Operation, Session
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._threads.monitor import Monitor, Waiters, rest
from elman._wire.channel import Channel
from elman._wire.status import server_name, server_of, stream_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")


class Call(Protocol):
    """gRPC's object for an RPC under way. Iteration raises `grpc.RpcError` if the RPC fails."""

    def __iter__(self) -> Iterator[pb.StreamResponse]: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> Any: ...


class Guard:
    """Context manager around a change to state shared by all sessions of a model.

    A Ctrl-C may leave the change half done; `interrupted` is called then.
    """

    __slots__ = ("_interrupted",)

    def __init__(self, interrupted: Callable[[], None]) -> None:
        self._interrupted = interrupted

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._interrupted()


class SessionHandle:
    """A session, and the locks of the threads waiting for a change of the session."""

    __slots__ = ("_guard", "_home", "_waiters", "monitor", "session")

    def __init__(
        self,
        home: Home,
        monitor: Monitor,
        guard: Guard,
        multiplexer: Multiplexer,
        options: SessionOptions,
    ) -> None:
        self._home = home
        self.monitor = monitor
        self._guard = guard
        self._waiters: Waiters = []
        self.session = multiplexer.open(options, self._wake)

    def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Runs an operation to its end and waits where needed. Raises `DeadlineExceeded`."""
        self._home.check()
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
            monitor.catch_up()

    def close(self) -> None:
        if not self._home.forked:
            with self.monitor.lock, self._guard:
                self.session.close()

    def drop(self) -> bool:
        """Closes the session from a finaliser, which may run anywhere.

        Returns False if the session belongs to another process.
        """
        if self._home.forked:
            return False
        self.monitor.defer(self.session.close)
        return True

    def _wake(self) -> None:
        if self._waiters:
            self.monitor.wake(self._waiters)


class Rpc:
    """A Stream call, from the first session to the last.

    All methods except `join` and `abort` are called under the monitor's lock.
    """

    def __init__(
        self,
        channels: ServerChannels[Channel[grpc.Channel]],
        known: KnownModel,
        monitor: Monitor,
        *,
        metadata: Metadata,
        max_frame_bytes: int,
        orphans: Callable[["Rpc", Session, Orphan], bool],
        succeeded: Callable[[], None],
        got_on: Callable[[Session], None],
        ended: Callable[["Rpc", ElmanError | None], None],
    ) -> None:
        """Leases a channel. `orphans`, `succeeded` and `got_on` are the multiplexer's callbacks.

        `ended` is called at the end of the call, with the error if the call ended before its
        sessions.
        """
        self.server_channel = channels.lease()
        self._channels = channels
        self.answered = False
        """Whether the server has sent an answer."""
        self.server = self.server_channel.target
        """The server's target; after the first answer, the server's own name."""
        self._metadata = metadata
        self._monitor = monitor
        self._writers: Waiters = []
        self._multiplexer = Multiplexer(
            known,
            writable=self._wake_writer,
            orphans=lambda session, orphan: orphans(self, session, orphan),
            succeeded=succeeded,
            got_on=got_on,
            max_frame_bytes=max_frame_bytes,
        )
        self._ended = ended
        self._over = False
        """Whether `ended` was called."""
        self._call: Call | None = None
        self._reader = threading.Thread(target=self._read, name="elman-reader", daemon=True)

    @property
    def open(self) -> bool:
        """Whether the RPC accepts more sessions."""
        multiplexer = self._multiplexer
        return not (multiplexer.finished or multiplexer.leaving or self.server_channel.retired)

    def handle(self, home: Home, guard: Guard, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        handle = SessionHandle(home, self._monitor, guard, self._multiplexer, options)
        self._start()
        return handle

    def adopt(self, session: Session) -> None:
        """Takes over an orphan: a session without an RPC."""
        self._multiplexer.adopt(session)
        self._start()

    def close_sessions(self) -> None:
        self._multiplexer.close_sessions()

    def fail(self, error: ElmanError) -> None:
        """Ends all sessions of the RPC with `error`."""
        self._multiplexer.fail(error, final=True)

    def join(self, timeout: float) -> None:
        """Waits until the RPC has no more sessions."""
        if self._reader.is_alive():
            self._reader.join(min(timeout, threading.TIMEOUT_MAX))

    def abort(self, error: ElmanError, *, final: bool = True) -> None:
        """Ends the RPC at once, even if gRPC returns from the call later.

        If `final`, the RPC's sessions raise `error`. Otherwise, they may resume on another RPC.
        """
        with self._monitor.lock:
            call = self._call
            first = self._end(error, final=final)
        if call is not None:
            call.cancel()
        if first:
            # When its last user gives a retired channel back, the connection is closed. A call
            # stuck in gRPC must not prevent the close.
            self._channels.give_back(self.server_channel)

    def _end(self, error: ElmanError, *, final: bool = False) -> bool:
        """Fails the remaining sessions and calls `ended`. Returns False if `ended` was called
        before."""
        if self._over:
            return False
        self._over = True
        early = not self._multiplexer.finished
        self._multiplexer.fail(error, final=final)
        self._ended(self, error if early else None)
        return True

    def _start(self) -> None:
        if not self._reader.is_alive():
            self._reader.start()

    def _wake_writer(self) -> None:
        if self._writers:
            self._monitor.wake(self._writers)

    def _frames(self) -> Iterator[pb.StreamRequest]:
        monitor = self._monitor
        while True:
            with monitor.lock:
                monitor.settle()
                frame = self._next_frame()
                if frame is None:
                    if self._multiplexer.finished:
                        return
                    waiter = monitor.enlist(self._writers)
            monitor.catch_up()
            if frame is not None:
                yield frame
                continue
            rest(waiter, None)
            with monitor.lock:
                monitor.returned(self._writers, waiter)
            # The woken threads are about to push their next elements; waiting for them fills the
            # frame.
            monitor.let_others_return()

    def _next_frame(self) -> pb.StreamRequest | None:
        try:
            return self._multiplexer.take()
        except Exception as bug:  # the same frame would fail on another RPC
            error = ServerError(f"the client failed to write a frame: {bug!r}")
            self._multiplexer.fail(error, final=True)
            return None

    def _begin(self) -> Call:
        call: Call = self.server_channel.channel.stub.Stream(
            self._frames(), metadata=self._metadata
        )
        with self._monitor.lock:
            self._call = call
            finished = self._multiplexer.finished or self._over
        if finished:
            call.cancel()
        return call

    def _read(self) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        try:
            for response in self._begin():
                with self._monitor.lock:
                    self._monitor.settle()
                    if not self.answered:
                        self._first_answer()
                    self._multiplexer.receive(response)
                self._monitor.catch_up()
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
            self.server = server_of(status) or self.server
        except ServerError as broken:
            error = broken
        except ValueError as closed:  # gRPC's error for a closed channel
            error = Unavailable(str(closed))
        finally:
            first = False
            try:
                with self._monitor.lock:
                    first = self._end(error)
            finally:
                if self._call is not None:
                    self._call.cancel()
                if first:
                    self._channels.give_back(self.server_channel)

    def _first_answer(self) -> None:
        self.answered = self.server_channel.worked = True
        assert self._call is not None
        # Initial metadata arrives before the first answer.
        self.server = server_name(self._call.initial_metadata()) or self.server
