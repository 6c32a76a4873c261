"""The inputs of a whole-sequence graph: the sequence, lengths, contexts and constants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
from onnx import helper

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.surgery import layout, recurrent
from elman_export.surgery.editor import Editor, attributes, inputs
from elman_export.surgery.onnxnodes import before_casts, makers
from elman_server.model.spec import ContextSpec, DType, InputKind, InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The original's input for the number of elements in each row."""

    name: str
    dtype: str


def fix(editor: Editor, constants: Mapping[str, Any]) -> None:
    """Turns inputs into constants of the declared types."""
    by_name = {value.name: value for value in editor.graph.input}
    initialized = {each.name for each in editor.graph.initializer}
    for name, value in constants.items():
        if name not in by_name:
            raise ExportError(
                f"constant {name!r} is no input of the graph; its inputs are "
                f"{', '.join(map(repr, by_name))}"
            )
        editor.fix(name, _constant(by_name[name], value))
    for name in by_name:
        if name in initialized and name not in constants:
            # Old graphs list weights as inputs too.
            editor.drop_inputs({name})


def _constant(declared: onnx.ValueInfoProto, value: Any) -> np.ndarray:
    """A value in the type and shape of an input. Raises `ExportError` for an invalid value."""
    kind = helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    given = np.asarray(value)
    dims = layout.dims(declared)
    with np.errstate(all="ignore"):
        try:
            cast = given.astype(kind)
        except (TypeError, ValueError, OverflowError):
            cast = None
    exact = cast is not None and (
        np.issubdtype(kind, np.floating) or np.array_equal(cast.astype(float), given.astype(float))
    )
    if cast is None or not exact:
        raise ExportError(f"constant {declared.name!r} is {value!r}; allowed is {kind}")
    fits = len(dims) == cast.ndim and all(
        size in (None, actual) for size, actual in zip(dims, cast.shape, strict=True)
    )
    if declared.type.tensor_type.HasField("shape") and not fits:
        if cast.size == 1 and all(size in (None, 1) for size in dims):
            return cast.reshape([1] * len(dims))
        raise ExportError(
            f"constant {declared.name!r} has shape {list(cast.shape)}; allowed is "
            f"{['?' if size is None else size for size in dims]}"
        )
    return cast


def lengths_input(model: onnx.ModelProto) -> Lengths | None:
    """The graph's input for the length of each row; None if no recurrent operator reads one."""
    by_made = makers(model.graph)
    by_name = {value.name: value for value in model.graph.input}
    for operator in recurrent.find(model.graph):
        name = before_casts(by_made, operator.lengths)
        if name in by_name:
            kind = by_name[name].type.tensor_type.elem_type
            return Lengths(name=name, dtype=str(helper.tensor_dtype_to_np_dtype(kind)))
    return None


def contexts(model: onnx.ModelProto, names: Sequence[str]) -> tuple[ContextSpec, ...]:
    """Inputs `[batch, *shape]`, given once per session.

    Raises `ExportError` for an unknown name, or for an input with an open shape.
    """
    by_name = {value.name: value for value in model.graph.input}
    found = []
    for name in names:
        if name not in by_name:
            raise ExportError(
                f"context {name!r} is no input of the graph; its inputs are "
                f"{', '.join(map(repr, by_name))}"
            )
        declared = layout.dims(by_name[name])
        shape = tuple(size for size in declared[1:] if size is not None)
        if not declared or len(shape) != len(declared) - 1:
            raise ExportError(
                f"context {name!r} is declared as "
                f"{['?' if size is None else size for size in declared]}; it must be [batch, ...] "
                "with nothing else left open"
            )
        kind = str(helper.tensor_dtype_to_np_dtype(by_name[name].type.tensor_type.elem_type))
        found.append(ContextSpec(name=name, dtype=cast(DType, kind), shape=shape))
    return tuple(found)


def element(
    model: onnx.ModelProto, lengths: Lengths | None, others: Sequence[ContextSpec]
) -> onnx.ValueInfoProto:
    """The sequence input: the only input besides lengths and contexts."""
    taken = {each.name for each in others}
    if lengths is not None:
        taken.add(lengths.name)
    left = [value for value in model.graph.input if value.name not in taken]
    if len(left) == 1:
        return left[0]
    raise UnsupportedGraph(
        f"the graph has {len(left)} inputs ({', '.join(repr(value.name) for value in left)}), and "
        "one of them takes the sequence; say of the others that they are constants or contexts"
        if left
        else "the graph has no input"
    )


def element_spec(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, said: InputSpec | None
) -> InputSpec:
    """The element's spec: `said` under the graph's own name and type, or a spec from the graph."""
    kind = str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if said is not None:
        return replace(said, name=value.name, dtype=cast(DType, kind))
    declared = layout.dims(value)
    if kind in ("int32", "int64"):
        size = _table_size(model, value.name)
        if size is None:
            raise ExportError(
                f"input {value.name!r} takes ids, and the graph does not show how many there are; "
                "say it: tokens:SIZE"
            )
        return InputSpec(name=value.name, kind=InputKind.TOKENS, dtype=cast(DType, kind), size=size)
    shape = declared[2:] if len(declared) > 2 else declared[1:]
    if any(size is None for size in shape) or len(declared) < 2:
        raise ExportError(
            f"input {value.name!r} is declared with axes that are left open "
            f"({['?' if size is None else size for size in declared]}); say the shape of an "
            "element: features:SIZE"
        )
    return InputSpec(
        name=value.name,
        kind=InputKind.FEATURES,
        dtype=cast(DType, kind),
        shape=tuple(size for size in shape if size is not None),
    )


def _table_size(model: onnx.ModelProto, name: str) -> int | None:
    """The number of rows in the table indexed by an input; None if no table is found."""
    tables = {each.name: each for each in model.graph.initializer}
    by_made = makers(model.graph)
    aliases = {name}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Transpose") and node.input[0] in aliases:
            aliases.update(node.output)
        if node.op_type == "Gather" and inputs(node, 1) in aliases:
            table = node.input[0]
            while table not in tables and table in by_made and by_made[table].input:
                table = by_made[table].input[0]
            if table in tables:
                return int(tables[table].dims[attributes(node).get("axis", 0)])
    return None
