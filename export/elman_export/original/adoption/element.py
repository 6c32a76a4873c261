"""Description of an element, from the caller, the graph's declarations and operators."""

from dataclasses import replace
from typing import cast

import onnx

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.original.adoption.port import Port
from elman_export.surgery import onnxnodes
from elman_server.model.spec import DType, InputKind, InputSpec

_LAYOUT_ONLY = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

_FLOATS = ("float16", "float32", "float64")
_IDS = ("int32", "int64")


def describe(model: onnx.ModelProto, port: Port, input: InputSpec | None) -> InputSpec:
    """Returns the input's kind, type and number of ids, under the graph's name. The shape comes
    from `input` only.

    Raises `ExportError` if `input` contradicts the graph, or if the number of ids is unknown;
    `UnsupportedGraph` for an unsupported type.
    """
    if port.dtype not in (*_FLOATS, *_IDS):
        raise UnsupportedGraph(
            f"input {port.name!r} takes elements of {port.dtype}; supported are "
            f"{', '.join((*_FLOATS, *_IDS))}"
        )
    dtype = cast(DType, port.dtype)
    if input is not None:
        takes = _FLOATS if input.kind is InputKind.FEATURES else _IDS
        if port.dtype not in takes:
            raise ExportError(
                f"input {port.name!r} takes {port.dtype}, so its elements are no {input.kind}"
            )
        return replace(input, name=port.name, dtype=dtype)
    if port.dtype in _FLOATS:
        return InputSpec(name=port.name, kind=InputKind.FEATURES, dtype=dtype)
    size = _ids(model, port.name)
    if size is None:
        raise ExportError(
            f"input {port.name!r} takes ids, and the graph does not show how many there are: pass "
            "--input tokens:SIZE (in Python, input=tokens(size))"
        )
    return InputSpec(name=port.name, kind=InputKind.TOKENS, dtype=dtype, size=size)


def _ids(model: onnx.ModelProto, name: str) -> int | None:
    """Returns the number of rows in the lookup table of the ids, `None` if unknown."""
    names = {name}
    tables = {each.name: each.dims[0] for each in model.graph.initializer if len(each.dims) > 1}
    found = None
    # Nodes are sorted: a node stands behind the makers of its inputs.
    for node in onnxnodes.nodes(model):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            dims = node.attribute[0].t.dims
            if len(dims) > 1:
                tables[node.output[0]] = dims[0]
        if node.op_type == "DequantizeLinear" and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
        if node.op_type in _LAYOUT_ONLY and node.input and node.input[0] in names:
            names.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            rows = tables[node.input[0]]
            found = rows if found is None else min(found, rows)
    return found
