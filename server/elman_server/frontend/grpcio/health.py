"""`grpc.health.v1`: health of the server and of each model.

The servicer of grpc-health-checking holds a lock during a write to a watcher. A watcher that does
not read would keep the status from changing and the server from stopping.
"""

import asyncio
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2

from elman_server.errors import ModelNotFound
from elman_server.frontend.grpcio.gate import Call, Gate
from elman_server.telemetry.table import MESSAGES_SENT

SERVICE = health.SERVICE_NAME
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


_MAX_REQUEST = 4096
"""Bytes. A request holds a name only."""


class HealthServicer:
    """Serves health statuses by service name, for one event loop."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._statuses: dict[str, int] = {}
        self._stopping = False
        self._changed = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # Load balancers and orchestrators must get an answer even from a full server.
                "Check": self._gate.unary(
                    SERVICE,
                    "Check",
                    self._check,
                    health_pb2.HealthCheckRequest,
                    always=True,
                    most=_MAX_REQUEST,
                ),
                "Watch": self._gate.stream(SERVICE, "Watch", self._watch, kind="server_stream"),
            },
        )

    def set(self, service: str, status: int) -> None:
        """Sets the status of a service and notifies watchers. Ignored while the server stops."""
        if not self._stopping:
            self._statuses[service] = status
            self._tell()

    def stop(self) -> None:
        """Sets all services to NOT_SERVING, permanently."""
        self._stopping = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._tell()

    async def _check(self, request: health_pb2.HealthCheckRequest, _: Call) -> Message:
        status = self._statuses.get(request.service)
        if status is None:
            raise ModelNotFound(f"service {request.service!r} is unknown")
        return _answer(status)

    async def _watch(self, call: Call) -> None:
        """Writes the current status, then each new status. A watcher that reads slowly misses
        intermediate statuses."""
        request = await self._gate.request(call, health_pb2.HealthCheckRequest, most=_MAX_REQUEST)
        told = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                await self._gate.write(call, _answer(status).SerializeToString())
                call.metrics.inc(MESSAGES_SENT)
                told = status
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _answer(status: int) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=cast(Any, status))
