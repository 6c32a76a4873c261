"""A `Multiplexer` on a real Stream RPC, for threads.

gRPC takes the frames from an iterator, in a thread of its own and one at a time, so that what is
pushed while a write is in flight gathers for the next. One more thread makes the call, where no
signal comes between its parts, and reads the answers. Both are daemons and end with the RPC.
"""

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc

from elman._core.deadline import Deadline
from elman._core.home import Home
from elman._core.models import KnownModel
from elman._core.multiplexer import Multiplexer
from elman._core.options import Metadata
from elman._core.session import Operation, Session
from elman._core.session_options import SessionOptions
from elman._threads.monitor import Monitor, Waiters, rest
from elman._threads.server_channels import ServerChannels
from elman._wire.status import Orphan, server_name, server_of, stream_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")


class Call(Protocol):
    """What gRPC gives for an RPC under way. Iterating it raises `grpc.RpcError` if that fails."""

    def __iter__(self) -> Iterator[pb.StreamResponse]: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> Any: ...


class Guard:
    """Around a change that all sessions of a model share. A Ctrl-C may come between two halves of
    it: then `interrupted` is called."""

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
    """A session, and where the threads that use it wait."""

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
        """Does what may have to wait. Raises `DeadlineExceeded`."""
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
        """Closes it from a finaliser, which may come anywhere. False if it is not of this
        process."""
        if self._home.forked:
            return False
        self.monitor.defer(self.session.close)
        return True

    def _wake(self) -> None:
        if self._waiters:
            self.monitor.wake(self._waiters)


class Rpc:
    """One call, from the first session to the last. All but `join` and `abort` is called under the
    monitor's lock."""

    def __init__(
        self,
        channels: ServerChannels[grpc.Channel],
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
        """`orphans`, `succeeded` and `got_on` are as the multiplexer has them; `ended` is told of
        the call's end, and why, if it came before that of its sessions."""
        self.server_channel = channels.lease()
        self._channels = channels
        self.answered = False
        """Whether the server has said anything."""
        self.server = self.server_channel.target
        """Which one it is; its own name for itself, once that has come."""
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
        """Whether the call's end was told of."""
        self._call: Call | None = None
        self._reader = threading.Thread(target=self._read, name="elman-reader", daemon=True)

    @property
    def open(self) -> bool:
        """Whether it takes more sessions."""
        multiplexer = self._multiplexer
        return not (multiplexer.finished or multiplexer.leaving or self.server_channel.retired)

    def handle(self, home: Home, guard: Guard, options: SessionOptions) -> SessionHandle:
        """A new session."""
        handle = SessionHandle(home, self._monitor, guard, self._multiplexer, options)
        self._start()
        return handle

    def adopt(self, session: Session) -> None:
        """A session that has lost its RPC goes on here."""
        self._multiplexer.adopt(session)
        self._start()

    def close_sessions(self) -> None:
        self._multiplexer.close_sessions()

    def fail(self, error: ElmanError) -> None:
        """All its sessions end."""
        self._multiplexer.fail(error, final=True)

    def join(self, timeout: float) -> None:
        """Waits until every session has ended, or gone."""
        if self._reader.is_alive():
            self._reader.join(min(timeout, threading.TIMEOUT_MAX))

    def abort(self, error: ElmanError, *, final: bool = True) -> None:
        """Ends the RPC at once, whenever gRPC gives the call back. Its sessions raise `error` or,
        if that is not final, go on elsewhere."""
        with self._monitor.lock:
            call = self._call
            first = self._end(error, final=final)
        if call is not None:
            call.cancel()
        if first:
            # With the last one that uses it, the connection is closed: also under a call that gRPC
            # does not give back.
            self._channels.give_back(self.server_channel)

    def _end(self, error: ElmanError, *, final: bool = False) -> bool:
        """Tells of the call's end; False if that was done before."""
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
            # They are about to push their next elements, which then go out together.
            monitor.let_others_return()

    def _next_frame(self) -> pb.StreamRequest | None:
        try:
            return self._multiplexer.take()
        except Exception as bug:  # another RPC would not write it either
            error = ServerError(f"the client failed to write a frame: {bug!r}")
            self._multiplexer.fail(error, final=True)
            return None

    def _begin(self) -> Call:
        call: Call = self.server_channel.stub.Stream(self._frames(), metadata=self._metadata)
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
        except ValueError as closed:  # what gRPC says of a channel that is closed
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
        # It came before the answer.
        self.server = server_name(self._call.initial_metadata()) or self.server
