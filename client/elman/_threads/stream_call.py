"""A Stream call of gRPC, moving the frames of an `Rpc`, for threads.

gRPC takes the frames from an iterator, a frame at a time and in gRPC's own thread: elements pushed
during a write are collected for the next frame. A second thread starts the call and reads the
answers. In a thread other than the main thread, no signal interrupts the start of a call. Both
threads are daemons and end with the RPC.
"""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from elman._core.models import KnownModel
from elman._core.options import Options
from elman._core.rpc.rpc import Rpc, RpcEvents
from elman._core.rpc.server_channels import ServerChannels
from elman._threads.monitor import Monitor, Waiters, wait
from elman._wire.channel import Channel
from elman._wire.status import server_name, server_of, stream_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb


class GrpcCall(Protocol):
    """gRPC's object for an RPC under way. Iteration raises `grpc.RpcError` if the RPC fails."""

    def __iter__(self) -> Iterator[pb.StreamResponse]: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> Any: ...


class StreamCall:
    """All methods except `join` and `abort` are called under the monitor's lock."""

    def __init__(
        self,
        known: KnownModel,
        channels: ServerChannels[Channel[grpc.Channel]],
        options: Options,
        events: RpcEvents,
        monitor: Monitor,
    ) -> None:
        """Leases a channel, until the end of the call."""
        self._channels = channels
        self._metadata = options.metadata
        self._monitor = monitor
        self._writers: Waiters = []
        self._call: GrpcCall | None = None
        server_channel = channels.lease()
        self._stub = server_channel.channel.stub
        self.rpc = Rpc(
            known,
            server_channel,
            events,
            max_frame_bytes=options.max_frame_bytes,
            writable=self._wake_writer,
        )
        self._multiplexer = self.rpc.multiplexer
        self._reader = threading.Thread(target=self._read, name="elman-reader", daemon=True)

    def start(self) -> None:
        """Part of `Call`."""
        if not self._reader.is_alive():
            self._reader.start()

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
            first = self.rpc.end(error, final=final)
        if call is not None:
            call.cancel()
        if first:
            # When its last user gives a retired channel back, the connection is closed. A call
            # stuck in gRPC must not prevent the close.
            self._channels.give_back(self.rpc.server_channel)

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
            wait(waiter, None)
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

    def _start_call(self) -> GrpcCall:
        call: GrpcCall = self._stub.Stream(self._frames(), metadata=self._metadata)
        with self._monitor.lock:
            self._call = call
            finished = self._multiplexer.finished or self.rpc.over
        if finished:
            call.cancel()
        return call

    def _read(self) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        try:
            call = self._start_call()
            for response in call:
                with self._monitor.lock:
                    self._monitor.settle()
                    if not self.rpc.answered:
                        # Initial metadata arrives before the first answer.
                        self.rpc.first_answer(server_name(call.initial_metadata()))
                    self._multiplexer.receive(response)
                self._monitor.catch_up()
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
            self.rpc.server = server_of(status) or self.rpc.server
        except ServerError as broken:
            error = broken
        except ValueError as closed:  # gRPC's error for a closed channel
            error = Unavailable(str(closed))
        finally:
            first = False
            try:
                with self._monitor.lock:
                    first = self.rpc.end(error)
            finally:
                if self._call is not None:
                    self._call.cancel()
                if first:
                    self._channels.give_back(self.rpc.server_channel)
