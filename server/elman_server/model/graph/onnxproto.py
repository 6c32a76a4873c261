"""Subset of onnx.proto: the fields for all constants of a model, and for the edges between nodes.

The server does not install the onnx package. Fields not declared here are kept, byte for byte, as a
message's unknown fields, and are written back unchanged.

Protobuf's own parser reads the messages. So a model has the same meaning here as in ONNX Runtime,
even if a field occurs twice.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Message: TypeAlias = Any
"""A message of a type below. Untyped, because the classes are generated."""

EXTERNAL = 1
"""`data_location` of a constant with external values."""
STRING = 8
"""`data_type` of strings, the values without a fixed size."""

_BYTES, _INT32, _INT64 = (
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
)
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED

# By message: field, number, label and type. Strings are read as bytes, since they may be invalid
# UTF-8.
_MESSAGES: dict[str, tuple[tuple[str, int, FieldDescriptorProto.Label.ValueType, Any], ...]] = {
    "Model": (
        ("graph", 7, _ONE, "Graph"),
        ("training_info", 20, _MANY, "TrainingInfo"),
        ("functions", 25, _MANY, "Function"),
    ),
    "TrainingInfo": (("initialization", 1, _ONE, "Graph"), ("algorithm", 2, _ONE, "Graph")),
    "Function": (
        ("name", 1, _ONE, _BYTES),
        ("input", 4, _MANY, _BYTES),
        ("output", 5, _MANY, _BYTES),
        ("node", 7, _MANY, "Node"),
        ("domain", 10, _ONE, _BYTES),
        ("attribute_proto", 11, _MANY, "Attribute"),
    ),
    "Graph": (
        ("node", 1, _MANY, "Node"),
        ("initializer", 5, _MANY, "Tensor"),
        ("input", 11, _MANY, "ValueInfo"),
        ("output", 12, _MANY, "ValueInfo"),
        ("sparse_initializer", 15, _MANY, "SparseTensor"),
    ),
    "ValueInfo": (("name", 1, _ONE, _BYTES),),
    "Node": (
        ("input", 1, _MANY, _BYTES),
        ("output", 2, _MANY, _BYTES),
        ("name", 3, _ONE, _BYTES),
        ("op_type", 4, _ONE, _BYTES),
        ("attribute", 5, _MANY, "Attribute"),
        ("domain", 7, _ONE, _BYTES),
    ),
    "Attribute": (
        ("name", 1, _ONE, _BYTES),
        ("t", 5, _ONE, "Tensor"),
        ("g", 6, _ONE, "Graph"),
        ("tensors", 10, _MANY, "Tensor"),
        ("graphs", 11, _MANY, "Graph"),
        ("sparse_tensor", 22, _ONE, "SparseTensor"),
        ("sparse_tensors", 23, _MANY, "SparseTensor"),
    ),
    "SparseTensor": (("values", 1, _ONE, "Tensor"), ("indices", 2, _ONE, "Tensor")),
    "Tensor": (
        ("dims", 1, _MANY, _INT64),
        ("data_type", 2, _ONE, _INT32),
        ("name", 8, _ONE, _BYTES),
        ("raw_data", 9, _ONE, _BYTES),
        ("external_data", 13, _MANY, "StringStringEntry"),
        ("data_location", 14, _ONE, _INT32),
    ),
    "StringStringEntry": (("key", 1, _ONE, _BYTES), ("value", 2, _ONE, _BYTES)),
}

_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # (u)int8, bool, the float8 types
    **dict.fromkeys((4, 5, 10, 16), 16),  # (u)int16, float16, bfloat16
    **dict.fromkeys((1, 6, 12), 32),  # float, (u)int32
    **dict.fromkeys((7, 11, 13, 14), 64),  # (u)int64, double, complex64
    15: 128,  # complex128
    **dict.fromkeys((21, 22, 23), 4),  # (u)int4, float4
    **dict.fromkeys((25, 26), 2),  # (u)int2
}


def parse(model: bytes) -> Message:
    """Parses a serialized ModelProto. Raises protobuf's `DecodeError`, also for messages nested
    more than a hundred deep."""
    return _MODEL.FromString(model)


def tensors(model: Message) -> Iterator[Message]:
    """Yields all constants of a model: initializers and attributes, at any depth. A sparse constant
    gives its two parts."""
    waiting = [("Model", model)]
    while waiting:
        kind, message = waiting.pop()
        for field, _, label, of in _MESSAGES[kind]:
            if not isinstance(of, str):
                continue
            value = getattr(message, field)
            found = value if label == _MANY else [value] if message.HasField(field) else ()
            if of == "Tensor":
                yield from found
            else:
                waiting.extend((of, each) for each in found)


def bits(data_type: int) -> int | None:
    """Returns the bits of a value of a type; None if the type is unknown or has no fixed size."""
    return _BITS.get(data_type)


def _model_class() -> Any:
    file = FileDescriptorProto(name="elman/onnx.proto", package="elman.onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message: DescriptorProto = file.message_type.add(name=name)
        for field, number, label, kind in fields:
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, kind
            else:
                added.type = kind
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("elman.onnx.Model"))


_MODEL = _model_class()
