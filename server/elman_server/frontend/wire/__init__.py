"""The wire of `elman.v1`, turned into calls of the engine. Only this package and `grpcio` know
protobuf."""
