"""Servers of a client: connections, and unary calls with retries, for asyncio."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import grpc
from grpc import aio

from elman._core.attempts import CallAttempts, ConnectAttempts
from elman._core.keepalive import ANSWER_SECONDS, Keepalive
from elman._core.models import Exchange
from elman._core.options import Options, rpc_timeout
from elman._core.rpc.server_channels import ServerChannels
from elman._process.home import keep_in_children
from elman._wire.channel import Channel
from elman._wire.status import CallFailure, call_failure, rpc_error
from elman.aio._ready import wait_until_connected
from elman.errors import Unavailable

T = TypeVar("T")

_DISCONNECT_SECONDS = 2.0
"""Timeout in seconds for gRPC to close a connection. Usually gRPC closes at once."""


class Servers:
    def __init__(
        self,
        options: Options,
        credentials: grpc.ChannelCredentials | None,
        keepalive: Keepalive,
        check: Callable[[], None],
    ) -> None:
        """`check` raises an error if the client is closed or unusable."""
        self._options = options
        self._credentials = credentials
        self._keepalive = keepalive
        self._check = check
        self._closing: set[asyncio.Task[None]] = set()
        self.channels: ServerChannels[Channel[aio.Channel]] = ServerChannels(
            options.targets, self._connect, self._disconnect, lock=nullcontext()
        )
        keep_in_children(self.channels)

    async def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        attempts = ConnectAttempts(self.channels, self._options)
        while True:
            with self.channels.leased() as server_channel:
                channel = server_channel.channel.grpc
                if await wait_until_connected(channel, attempts.seconds, patient=attempts.patient):
                    return
                delay = attempts.failed(server_channel)
                if delay is None:
                    raise Unavailable(self._options.unreachable(await _reason(channel)))
            await asyncio.sleep(delay)

    async def call(self, method: str, request: Any, seconds: float | None) -> Any:
        """Makes a unary call. Retries on one server after another within the connect timeout."""
        attempts = CallAttempts(
            self.channels, connect_timeout=self._options.connect_timeout, timeout=seconds
        )
        while True:
            self._check()
            with self.channels.leased() as server_channel:
                try:
                    answer = await getattr(server_channel.channel.stub, method)(
                        request, timeout=attempts.remaining, metadata=self._options.metadata
                    )
                    server_channel.worked = True
                    return answer
                except grpc.RpcError as error:
                    self._check()
                    delay = attempts.failed(server_channel, call_failure(error))
                    if delay is None:
                        raise
                except asyncio.CancelledError:
                    # gRPC cancels calls of two kinds: the server did not accept the call, or the
                    # channel was closed.
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    self._check()
                    delay = attempts.failed(server_channel, CallFailure.REFUSED)
                    if delay is None:
                        raise Unavailable("the server did not accept the call") from None
            await asyncio.sleep(delay)

    async def ask(self, exchange: Exchange[T]) -> T:
        """Makes the unary calls of an exchange, and returns the exchange's result."""
        seconds = rpc_timeout(self._options.timeout)
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await self.call(request.method, request.message, seconds))
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    async def close(self) -> None:
        """Closes all connections."""
        self.channels.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_DISCONNECT_SECONDS)

    def _connect(self, target: str) -> Channel[aio.Channel]:
        arguments = self._options.channel_arguments(self._keepalive.seconds, ANSWER_SECONDS)
        if self._credentials is None:
            return Channel(aio.insecure_channel(target, arguments))
        return Channel(aio.secure_channel(target, self._credentials, arguments))

    def _disconnect(self, channel: Channel[aio.Channel]) -> None:
        task = asyncio.create_task(channel.grpc.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _reason(channel: aio.Channel) -> str:
    """gRPC's reason for a missing connection. Any method works for the probe: the call fails
    unsent."""
    try:
        probe: aio.UnaryUnaryMultiCallable[bytes, bytes]
        probe = channel.unary_unary("/grpc.health.v1.Health/Check")
        await probe(b"", timeout=0.1)
    except grpc.RpcError as error:
        return str(rpc_error(error))
    return "the server answers now"
