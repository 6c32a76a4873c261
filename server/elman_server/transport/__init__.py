"""gRPC: what the wire says, turned into calls of the engine. Only this package imports grpc."""

from elman_server.transport import settings

settings.apply()
