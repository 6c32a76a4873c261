"""The gRPC endpoint: one port with all services on it, health and reflection among them."""

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from elman_server.config import ServerConfig
from elman_server.served import ServedModel
from elman_server.transport import health
from elman_server.transport.servicer import SERVICE, InferenceServicer

_OVERALL = ""


class Endpoint:
    """Health knows the server as "" and as the service's name, and each model by its own name."""

    def __init__(self, config: ServerConfig, servicer: InferenceServicer) -> None:
        self._config = config
        self._servicer = servicer
        self._health = health.HealthServicer()
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
                # Two servers on one port are a mistake, but for the workers of one.
                ("grpc.so_reuseport", int(config.workers > 1)),
            ]
        )
        self._server.add_generic_rpc_handlers((servicer.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE, reflection.SERVICE_NAME), self._server
        )

    async def start(self) -> int:
        """Returns the port. Raises `RuntimeError` if it can't be bound."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        port = self._server.add_insecure_port(f"{host}:{self._config.port}")
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.NOT_SERVING)
        await self._server.start()
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
