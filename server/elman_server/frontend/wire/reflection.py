"""Server reflection, with limits on the size of requests and on slow readers."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from elman_server.errors import InvalidRequest
from elman_server.frontend.gate.gate import AdmittedCall, Gate
from elman_server.frontend.transport import Method
from elman_server.frontend.wire.messages import parse
from elman_server.telemetry.table import MESSAGES_RECEIVED

SERVICE = reflection.SERVICE_NAME
_MAX_REQUEST = 16 * 1024
"""Bytes. The answer repeats the request."""


class ReflectionServicer:
    def __init__(self, gate: Gate, services: Sequence[str]) -> None:
        self._gate = gate
        self._library: Any = reflection.aio.ReflectionServicer(services)

    def methods(self) -> list[Method]:
        return [self._gate.stream(SERVICE, "ServerReflectionInfo", self._answer)]

    async def _answer(self, call: AdmittedCall) -> None:
        data = await self._gate.first(call)
        while data is not None:
            if len(data) > _MAX_REQUEST:
                raise InvalidRequest(
                    f"the request takes {len(data)} bytes; allowed is {_MAX_REQUEST}"
                )
            request = parse(reflection_pb2.ServerReflectionRequest, data)
            async for answer in self._library.ServerReflectionInfo(_only(request), None):
                await self._gate.write(call, answer.SerializeToString())
            data = await call.call.read()
            if data is not None:
                call.metrics.inc(MESSAGES_RECEIVED)


async def _only(
    request: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield request
