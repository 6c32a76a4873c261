"""`grpc.health.v1`: health of the server and of each model.

The servicer of grpc-health-checking holds a lock during a write to a watcher. A watcher that does
not read would keep the status from changing and the server from stopping.
"""

import asyncio
from functools import partial
from typing import Any, cast

from grpc_health.v1 import health_pb2

from elman_server.errors import ModelNotFound
from elman_server.frontend.gate.gate import AdmittedCall, Gate
from elman_server.frontend.transport import Method
from elman_server.frontend.wire.messages import parse

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_MAX_REQUEST = 4096
"""Bytes. A request holds a name only."""

_parse = partial(parse, health_pb2.HealthCheckRequest)


class HealthServicer:
    """Serves health statuses by service name, for one event loop."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._statuses: dict[str, int] = {}
        self._stopping = False
        self._changed = asyncio.Event()

    def methods(self) -> list[Method]:
        return [
            # Load balancers and orchestrators must get an answer even from a full server.
            self._gate.unary(SERVICE, "Check", self._check, _parse, always=True, most=_MAX_REQUEST),
            self._gate.stream(SERVICE, "Watch", self._watch, kind="server_stream"),
        ]

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

    async def _check(self, request: health_pb2.HealthCheckRequest, _: AdmittedCall) -> bytes:
        status = self._statuses.get(request.service)
        if status is None:
            raise ModelNotFound(f"service {request.service!r} is unknown")
        return _answer(status)

    async def _watch(self, call: AdmittedCall) -> None:
        """Writes the current status, then each new status. A watcher that reads slowly misses
        intermediate statuses."""
        request = await self._gate.request(call, _parse, most=_MAX_REQUEST)
        told = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                await self._gate.write(call, _answer(status))
                told = status
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _answer(status: int) -> bytes:
    return health_pb2.HealthCheckResponse(status=cast(Any, status)).SerializeToString()
