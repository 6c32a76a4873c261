"""A Stream call of gRPC, moving the frames of an `Rpc`, for asyncio.

A writer task writes a frame at a time: elements pushed during a write are collected for the next
frame. A reader task reads the answers. Both tasks end with the RPC.
"""

import asyncio
from typing import Any

import grpc
from grpc import aio

from elman._core.models import KnownModel
from elman._core.options import Options
from elman._core.rpc.rpc import Rpc, RpcEvents
from elman._core.rpc.server_channels import ServerChannels
from elman._wire.channel import Channel
from elman._wire.status import server_name, server_of, stream_error
from elman.errors import ElmanError, ServerError, Unavailable
from elman.v1 import inference_pb2 as pb

GrpcCall = aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]


class StreamCall:
    def __init__(
        self,
        known: KnownModel,
        channels: ServerChannels[Channel[aio.Channel]],
        options: Options,
        events: RpcEvents,
    ) -> None:
        """Leases a channel, until the end of the call, and starts the call."""
        self._channels = channels
        self._writable = asyncio.Event()
        server_channel = channels.lease()
        self.rpc = Rpc(
            known,
            server_channel,
            events,
            max_frame_bytes=options.max_frame_bytes,
            writable=self._writable.set,
        )
        self._multiplexer = self.rpc.multiplexer
        start: Any = server_channel.channel.stub.Stream
        call: GrpcCall = start(metadata=options.metadata)
        self._call: GrpcCall | None = call
        """None after the call's end: gRPC keeps a connection open while a call object exists."""
        self._writer = asyncio.create_task(self._write(call), name="elman-writer")
        self._reader = asyncio.create_task(self._read(call), name="elman-reader")

    def start(self) -> None:
        """Part of `Call`. The tasks have started already."""

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
        if self.rpc.over:
            return
        try:
            self.rpc.end(error, final=final)
        finally:
            self._call = None
            # When its last user gives a retired channel back, the connection is closed.
            self._channels.give_back(self.rpc.server_channel)

    async def _write(self, call: GrpcCall) -> None:
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

    async def _read(self, call: GrpcCall) -> None:
        error: ElmanError = ServerError("the client failed to read an answer")
        final = False
        try:
            async for response in call:
                if self.rpc.over:
                    # The call was cancelled. Its iterator keeps the call until the iterator's end.
                    continue
                if not self.rpc.answered:
                    # Initial metadata arrives before the first answer.
                    self.rpc.first_answer(server_name(await call.initial_metadata()))
                self._multiplexer.receive(response)
            error = Unavailable("the server ended the RPC")
        except grpc.RpcError as status:
            error = stream_error(status)
            self.rpc.server = server_of(status) or self.rpc.server
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
