"""Inputs and outputs as declared by a graph."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from elman_export.errors import UnsupportedGraph

Dims = tuple[int | None, ...]
"""Sizes by axis; `None` for an open axis."""

SUPPORTED = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or an output of the graph."""

    name: str
    dtype: str
    dims: Dims | None
    """`None` if even the number of axes is undeclared."""

    def __str__(self) -> str:
        return f"{self.name} {shape_text(self.dims)}"


def shape_text(dims: Sequence[int | None] | None) -> str:
    if dims is None:
        return "[...]"
    return f"[{', '.join('?' if size is None else str(size) for size in dims)}]"


def read(value: onnx.ValueInfoProto) -> Port:
    """Reads a declaration. Raises `UnsupportedGraph` for a type not supported in step models."""
    kind = value.type
    if not kind.HasField("tensor_type"):
        raise UnsupportedGraph(f"{value.name!r} is no tensor, but {kind.WhichOneof('value')}")
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    except KeyError:
        dtype = "?"
    if dtype not in SUPPORTED:
        known = onnx.TensorProto.DataType.items()
        named = {number: name for name, number in known}
        number = kind.tensor_type.elem_type
        raise UnsupportedGraph(
            f"{value.name!r} is of type {named.get(number, number)}; supported are "
            f"{', '.join(SUPPORTED)}"
        )
    dims = None
    if kind.tensor_type.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.dim_value > 0 else None for dim in kind.tensor_type.shape.dim
        )
    return Port(name=value.name, dtype=dtype, dims=dims)


def open_zeros(values: Iterable[onnx.ValueInfoProto]) -> None:
    """Opens axes declared as 0. Some exporters write 0 for a variable size, but ONNX Runtime would
    accept only the size 0."""
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value == 0:
                dim.Clear()


def ports(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Port]:
    return {value.name: read(value) for value in values}


def compatible(one: Port, other: Port) -> bool:
    """Whether one port can hold the other's next value, by the declarations."""
    if one.dtype != other.dtype:
        return False
    return merged(one.dims, other.dims) is not None or None in (one.dims, other.dims)


def merged(one: Dims | None, other: Dims | None) -> Dims | None:
    """Merges the sizes of both ports; `None` if both are undeclared or contradict each other."""
    if one is None or other is None:
        return one if other is None else other
    if len(one) != len(other):
        return None
    pairs = list(zip(one, other, strict=True))
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return None
    return tuple(b if a is None else a for a, b in pairs)
