"""The gRPC endpoint: a port with all services, including health and reflection."""

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
"""Time without a call after which the server closes a connection. The client reconnects when
necessary."""
_OTHER_FILES = 128
"""Descriptors reserved for everything except connections: models, metrics, the state store."""


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


class Endpoint:
    """The gRPC server with all services. Health reports the server under "" and the service's name,
    and each model under the model's name."""

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
                # Newer versions of gRPC use a separate timeout for pings, by default a minute.
                ("grpc.http2.ping_timeout_ms", keepalive),
                ("grpc.keepalive_permit_without_calls", 1),
                # Clients may send a keepalive ping every 5 seconds. Pings sent 5 seconds apart may
                # arrive closer together.
                ("grpc.http2.min_ping_interval_without_data_ms", 4000),
                ("grpc.max_allowed_incoming_connections", self._connections),
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
        """Starts serving and returns the port. Raises `RuntimeError` if the port can't be bound."""
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

    def detach(self, model: ServedModel) -> None:
        """Stops streams from opening sessions on an unloaded model."""
        self._servicer.detach(model)

    async def ready(self) -> None:
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.SERVING)

    def not_serving(self) -> None:
        """Reports NOT_SERVING for all services to health watchers. Can't be undone."""
        self._health.stop()

    async def stop(self, grace: float) -> None:
        """Waits for RPCs to end, and cancels the remaining RPCs after `grace` seconds. On return,
        the sessions of all RPCs have ended."""
        await self._server.stop(grace)
        await self._servicer.cleaned_up()
