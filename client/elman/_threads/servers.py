"""Servers of a client: connections, and unary calls with retries, for threads."""

import threading
from collections.abc import Callable
from time import sleep
from typing import Any, TypeVar

import grpc

from elman._core.attempts import CallAttempts, ConnectAttempts
from elman._core.keepalive import ANSWER_SECONDS, Keepalive
from elman._core.models import Exchange
from elman._core.options import Options, rpc_timeout
from elman._core.rpc.server_channels import ServerChannels
from elman._process.home import close_at_exit, keep_in_children
from elman._threads.ready import wait_until_connected
from elman._wire.channel import Channel
from elman._wire.status import call_failure, rpc_error
from elman.errors import Unavailable

T = TypeVar("T")


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
        self.channels: ServerChannels[Channel[grpc.Channel]] = ServerChannels(
            options.targets,
            self._connect,
            lambda channel: channel.grpc.close(),
            lock=threading.Lock(),
        )
        keep_in_children(self.channels)
        close_at_exit(self.channels)

    def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        attempts = ConnectAttempts(self.channels, self._options)
        while True:
            with self.channels.leased() as server_channel:
                channel = server_channel.channel.grpc
                if wait_until_connected(channel, attempts.seconds, patient=attempts.patient):
                    return
                delay = attempts.failed(server_channel)
                if delay is None:
                    raise Unavailable(self._options.unreachable(_reason(channel)))
            sleep(delay)

    def call(self, method: str, request: Any, seconds: float | None) -> Any:
        """Makes a unary call. Retries on one server after another within the connect timeout."""
        attempts = CallAttempts(
            self.channels, connect_timeout=self._options.connect_timeout, timeout=seconds
        )
        while True:
            self._check()
            with self.channels.leased() as server_channel:
                try:
                    answer = getattr(server_channel.channel.stub, method)(
                        request, timeout=attempts.remaining, metadata=self._options.metadata
                    )
                    server_channel.worked = True
                    return answer
                except (grpc.RpcError, ValueError) as error:
                    self._check()
                    delay = attempts.failed(server_channel, call_failure(error))
                    if delay is None:
                        raise
            sleep(delay)

    def ask(self, exchange: Exchange[T]) -> T:
        """Makes the unary calls of an exchange, and returns the exchange's result."""
        seconds = rpc_timeout(self._options.timeout)
        try:
            request = next(exchange)
            while True:
                request = exchange.send(self.call(request.method, request.message, seconds))
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    def _connect(self, target: str) -> Channel[grpc.Channel]:
        arguments = self._options.channel_arguments(self._keepalive.seconds, ANSWER_SECONDS)
        if self._credentials is None:
            return Channel(grpc.insecure_channel(target, arguments))
        return Channel(grpc.secure_channel(target, self._credentials, arguments))


def _reason(channel: grpc.Channel) -> str:
    """gRPC's reason for a missing connection. Any method works for the probe: the call fails
    unsent."""
    try:
        probe: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        probe = channel.unary_unary("/grpc.health.v1.Health/Check")
        probe(b"", timeout=0.1)
    except grpc.RpcError as error:
        return str(rpc_error(error))
    return "the server answers now"
