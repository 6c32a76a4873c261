"""`grpc.health.v1`: the server's health, and each model's.

grpc-health-checking's own servicer holds a lock while it writes to a watcher, so one that does not
read keeps the status from changing, and the server from stopping.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = health.SERVICE_NAME
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):
    """For one event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._stopping = False
        self._changed = asyncio.Event()

    def set(self, service: str, status: int) -> None:
        """Says how a service is, to who asks and to who watches; not any more while the server
        stops."""
        if not self._stopping:
            self._statuses[service] = status
            self._tell()

    def stop(self) -> None:
        """No service serves from now on."""
        self._stopping = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._tell()

    async def Check(self, request: Any, context: Any) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _answer(status)

    async def Watch(self, request: Any, context: Any) -> None:
        """Writes the status now, and then each that it comes to. A watcher that reads slowly misses
        what was in between."""
        told = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                await context.write(_answer(status))
                told = status
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _answer(status: int | None) -> Any:
    return health_pb2.HealthCheckResponse(status=status)
