"""Small ONNX graphs, written as bytes, to run beside a server's models. The server has no onnx
package to make graphs with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_IR_VERSION = 8
_OPSET = 13

# Numbers of onnx.proto's TensorProto.DataType.
_DTYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}


@dataclass(frozen=True, slots=True)
class Node:
    kind: str
    inputs: Sequence[str]
    output: str
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph, with any length of each axis."""

    name: str
    dtype: str
    axes: int


def write(nodes: Iterable[Node], inputs: Iterable[Value], outputs: Iterable[Value]) -> bytes:
    """Returns a serialized ModelProto. The numbers are field numbers of onnx.proto."""
    graph = b"".join(
        [
            *(_field(1, _node(node)) for node in nodes),
            _field(2, b"elman"),
            *(_field(11, _value(value)) for value in inputs),
            *(_field(12, _value(value)) for value in outputs),
        ]
    )
    opset = _field(1, b"") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, opset)


def identity() -> bytes:
    """Returns the graph `y = x` for float32 numbers, to test whether a provider computes."""
    numbers = [Value(name, "float32", 1) for name in "xy"]
    return write([Node("Identity", ["x"], "y")], numbers[:1], numbers[1:])


def _node(node: Node) -> bytes:
    parts = [_field(1, name.encode()) for name in node.inputs]
    parts += [_field(2, node.output.encode()), _field(4, node.kind.encode())]
    if node.axis is not None:
        attribute_int = 2
        parts.append(
            _field(5, _field(1, b"axis") + _number(3, node.axis) + _number(20, attribute_int))
        )
    return b"".join(parts)


def _value(value: Value) -> bytes:
    shape = b"".join(
        _field(1, _field(2, f"{value.name} {axis}".encode())) for axis in range(value.axes)
    )
    tensor = _number(1, _DTYPES[value.dtype]) + _field(2, shape)
    return _field(1, value.name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, content: int) -> bytes:
    return _varint(number << 3) + _varint(content)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
