"""The transport over grpcio: a port of the network, with limits on connections."""

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from elman_server.config import ServerConfig
from elman_server.frontend.grpcio.call import GrpcioCall, caller
from elman_server.frontend.grpcio.connections import Connections
from elman_server.frontend.grpcio.inflow import Inflow, most_held
from elman_server.frontend.status import Code, Status
from elman_server.frontend.transport import Method, Serve

_HANDSHAKE_MS = 10_000
_IDLE_MS = 600_000
"""Time without a call after which the server closes a connection. The client reconnects when
necessary."""
_OTHER_FILES = 128
"""Descriptors reserved for everything except connections: models, metrics, the state store."""
_TAKEN_SECONDS = 30.0
"""Time limit for the client to take the final status of a call."""
_CODES = {code: grpc.StatusCode[code.name] for code in Code}

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def connections(most: int) -> int:
    """Returns the number of allowed connections: `most`, or fewer if the process can't have enough
    descriptors. Raises the process's descriptor limit as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = most + _OTHER_FILES
    allowed = needed if unlimited in (soft, hard) else max(soft, min(hard, needed))
    if soft != unlimited and allowed > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, min(most, allowed - _OTHER_FILES))


class GrpcioTransport:
    """Implements `Transport`, for one event loop."""

    def __init__(
        self,
        config: ServerConfig,
        closed: Callable[[str, str, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`closed(reason, peer, why)` is called for each connection closed by the transport."""
        self._address = f"[{config.host}]" if ":" in config.host else config.host
        self._address += f":{config.port}"
        self._most = connections(config.max_connections)
        self._max_partial_bytes = config.max_partial_bytes
        self._connections = Connections(closed)
        self._inflows: dict[str, Inflow] = {}
        """Inflow of each connection, by peer."""
        self._clock = clock
        self._server = grpc.aio.server(options=_options(config, self._most))

    async def start(self, methods: Sequence[Method]) -> int:
        services: dict[str, dict[str, Handler]] = {}
        for method in methods:
            services.setdefault(method.service, {})[method.name] = self._handler(method.serve)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(*service) for service in services.items()]
        )
        port = self._server.add_insecure_port(self._address)
        await self._server.start()
        self._connections.watch(port, self._most, self._busy)
        self._connections.bound(port, self._holders, self._busy)
        return port

    async def stop(self, grace: float) -> None:
        await self._server.stop(grace)

    def _handler(self, serve: Serve) -> Handler:
        async def handle(_: Any, context: Any) -> None:
            by = caller(context)
            inflow = self._inflow(by.peer)
            inflow.calls += 1
            try:
                status = await serve(GrpcioCall(context, by, inflow, self._connections))
            finally:
                inflow.end()
            if status.code is not Code.OK:
                await self._end(context, status, by.peer)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _end(self, context: Any, status: Status, peer: str) -> None:
        """Ends a call with a status. gRPC sends the status after the written messages: a client
        that does not read never gets the status, and gRPC keeps both until the connection ends."""
        try:
            async with asyncio.timeout(_TAKEN_SECONDS):
                await context.abort(_CODES[status.code], status.message, status.trailers)
        except TimeoutError:
            self._connections.cut(peer, reason="unread", why="the end of a call was not read")
            raise asyncio.CancelledError from None

    def _busy(self) -> list[str]:
        """Connections with a call."""
        return [peer for peer, inflow in self._inflows.items() if inflow.calls]

    def _holders(self, received: Mapping[str, int]) -> list[str]:
        """Connections to close, given the bytes received over each connection."""
        now = self._clock()
        self._inflows = {
            peer: inflow
            for peer, inflow in self._inflows.items()
            if peer in received or inflow.calls
        }
        held = {peer: self._inflow(peer).held(nbytes, now) for peer, nbytes in received.items()}
        return most_held(held, self._max_partial_bytes)

    def _inflow(self, peer: str) -> Inflow:
        inflow = self._inflows.get(peer)
        if inflow is None:
            inflow = self._inflows[peer] = Inflow(self._clock())
        return inflow


def _options(config: ServerConfig, connections: int) -> list[tuple[str, int]]:
    keepalive = round(config.keepalive_time * 1000)
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", keepalive),
        # Newer versions of gRPC use a separate timeout for pings, by default a minute.
        ("grpc.http2.ping_timeout_ms", keepalive),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may send a keepalive ping every 5 seconds. Pings sent 5 seconds apart may
        # arrive closer together.
        ("grpc.http2.min_ping_interval_without_data_ms", 4000),
        ("grpc.max_allowed_incoming_connections", connections),
        # gRPC also counts streams that were reset and are not cleaned up yet. So a client
        # that resets and reopens in a loop has no more streams than other clients.
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # For connections that send no bytes or no settings.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        # Calls that wait to be accepted, one in each iteration of the event loop. gRPC
        # refuses further calls itself, at random from the first number on, and does not
        # count the refusals.
        ("grpc.server.max_pending_requests", 2 * config.max_calls),
        ("grpc.server.max_pending_requests_hard_limit", 3 * config.max_calls),
        # Two servers on one port are a mistake, except for workers of one server.
        ("grpc.so_reuseport", int(config.workers > 1)),
    ]
