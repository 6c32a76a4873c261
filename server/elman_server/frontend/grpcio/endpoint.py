"""The gRPC endpoint: one port with all services on it, health and reflection among them."""

import contextlib
import resource

import grpc

from elman_server.config import ServerConfig
from elman_server.frontend.grpcio import health, reflection
from elman_server.frontend.grpcio.gate import Gate
from elman_server.frontend.grpcio.health import HealthServicer
from elman_server.frontend.grpcio.reflection import ReflectionServicer
from elman_server.frontend.grpcio.servicer import SERVICE, InferenceServicer
from elman_server.serving.served import ServedModel

_OVERALL = ""
_HANDSHAKE_MS = 10_000
_IDLE_MS = 600_000
"""After which a connection without a call is closed; its client connects again when it needs to."""
_OTHER_FILES = 128
"""Descriptors that connections leave to everything else: models, metrics, the state store."""


def connections(most: int) -> int:
    """How many there may be, of `most`, for the descriptors that this process may have; it is given
    as many as it needs and the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = most + _OTHER_FILES
    allowed = needed if unlimited in (soft, hard) else max(soft, min(hard, needed))
    if soft != unlimited and allowed > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, min(most, allowed - _OTHER_FILES))


class Endpoint:
    """Health knows the server as "" and as the service's name, and each model by its own name."""

    def __init__(self, config: ServerConfig, servicer: InferenceServicer, gate: Gate) -> None:
        self._config = config
        self._servicer = servicer
        self._gate = gate
        self._connections = connections(config.max_connections)
        self._health = HealthServicer(gate)
        keepalive = round(config.keepalive_time * 1000)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.keepalive_time_ms", keepalive),
                ("grpc.keepalive_timeout_ms", keepalive),
                # Newer versions of gRPC wait for the ping's own timeout, a minute.
                ("grpc.http2.ping_timeout_ms", keepalive),
                ("grpc.keepalive_permit_without_calls", 1),
                # Clients may ask as often as every 5 seconds whether the server is still there,
                # and what they sent 5 seconds apart may come closer together.
                ("grpc.http2.min_ping_interval_without_data_ms", 4000),
                ("grpc.max_allowed_incoming_connections", self._connections),
                # gRPC counts those that were reset and are not cleaned up yet, too: so a client
                # that resets and reopens in a loop has no more of them than others.
                ("grpc.max_concurrent_streams", config.max_concurrent_streams),
                # Of those that no bytes or no settings come from.
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                # Calls that wait to be taken, one a turn of the event loop: gRPC refuses further
                # ones by itself, at random from the first number on, and counts them nowhere.
                ("grpc.server.max_pending_requests", 2 * config.max_calls),
                ("grpc.server.max_pending_requests_hard_limit", 3 * config.max_calls),
                # Two servers on one port are a mistake, but for the workers of one.
                ("grpc.so_reuseport", int(config.workers > 1)),
            ]
        )
        services = (SERVICE, health.SERVICE, reflection.SERVICE)
        self._server.add_generic_rpc_handlers(
            (
                servicer.handler(),
                self._health.handler(),
                ReflectionServicer(gate, services).handler(),
            )
        )

    async def start(self) -> int:
        """Returns the port. Raises `RuntimeError` if it can't be bound."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        port = self._server.add_insecure_port(f"{host}:{self._config.port}")
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.NOT_SERVING)
        await self._server.start()
        self._gate.watch_connections(port, self._connections)
        return port

    async def model_ready(self, name: str) -> None:
        self._health.set(name, health.SERVING)

    async def model_gone(self, name: str) -> None:
        self._health.set(name, health.NOT_SERVING)

    def dismiss(self, model: ServedModel) -> None:
        """Has those who hold on to a model open no more sessions on it."""
        self._servicer.dismiss(model)

    async def ready(self) -> None:
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.SERVING)

    def not_serving(self) -> None:
        """Tells whoever watches that the server is going away. Can't be undone."""
        self._health.stop()

    async def stop(self, grace: float) -> None:
        """Waits for RPCs to end, and cancels those that have not after `grace` seconds. Their
        sessions have ended then."""
        await self._server.stop(grace)
        await self._servicer.cleaned_up()
