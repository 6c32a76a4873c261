"""One call over grpcio: the transport port's `Call` on gRPC's context."""

from typing import Any
from urllib.parse import unquote

import grpc

from elman_server.frontend.caller import Caller
from elman_server.frontend.grpcio.connections import Connections
from elman_server.frontend.grpcio.inflow import Inflow
from elman_server.frontend.status import Metadata
from elman_server.frontend.transport import Gone


class GrpcioCall:
    __slots__ = ("_connections", "_context", "_inflow", "_read", "_write", "caller")

    def __init__(
        self, context: Any, caller: Caller, inflow: Inflow, connections: Connections
    ) -> None:
        """`inflow` counts the bytes of the call's connection."""
        self.caller = caller
        self._context = context
        self._read = context.read
        self._write = context.write
        self._inflow = inflow
        self._connections = connections

    async def start(self, metadata: Metadata) -> None:
        try:
            await self._context.send_initial_metadata(metadata)
        except grpc.aio.InternalError as error:
            raise Gone from error

    async def read(self) -> bytes | None:
        message = await self._read()
        if message is grpc.aio.EOF:
            return None
        data: bytes = message
        self._inflow.message(len(data))
        return data

    async def write(self, message: bytes) -> None:
        try:
            await self._write(message)
        except grpc.aio.InternalError as error:
            raise Gone from error
        self._inflow.wrote(len(message))

    def cut(self, *, reason: str, why: str) -> None:
        self._connections.cut(self.caller.peer, reason=reason, why=why)


def caller(context: Any) -> Caller:
    """Returns the caller of a call, from gRPC's context."""
    names = context.peer_identities() or ()
    return Caller(
        identity="\n".join(sorted(name.decode(errors="replace") for name in names)),
        peer=unquote(context.peer()),
    )
