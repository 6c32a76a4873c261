"""A gRPC channel with the stub of the Inference service."""

from typing import Any, Generic, TypeVar

from elman.v1.inference_pb2_grpc import InferenceStub

C = TypeVar("C")


class Channel(Generic[C]):
    """`C` is gRPC's class of channels: for threads or for asyncio."""

    __slots__ = ("grpc", "stub")

    def __init__(self, channel: C) -> None:
        untyped: Any = channel
        self.grpc = channel
        self.stub: InferenceStub = InferenceStub(untyped)
