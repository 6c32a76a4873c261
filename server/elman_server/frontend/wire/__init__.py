"""Translation between messages of `elman.v1` and calls of the engine. Only this package and
`grpcio` know protobuf."""
