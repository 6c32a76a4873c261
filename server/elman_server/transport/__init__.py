"""gRPC: what the wire says, turned into calls of the engine. Only this package imports grpc."""
