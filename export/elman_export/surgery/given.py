"""The inputs of a whole-sequence graph: the sequence, lengths, contexts and constants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.surgery import graphs, layout, recurrent
from elman_server.model.spec import ContextSpec, DType, InputKind, InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The original's input for the number of elements in each row."""

    name: str
    dtype: str


def fix(graph: ir.Graph, constants: Mapping[str, Any]) -> None:
    """Turns inputs into constants of the declared types."""
    by_name = {str(value.name): value for value in graph.inputs}
    for name, value in constants.items():
        if name not in by_name:
            raise ExportError(
                f"constant {name!r} is no input of the graph; its inputs are "
                f"{', '.join(map(repr, by_name))}"
            )
        by_name[name].const_value = ir.Tensor(_constant(by_name[name], value), name=name)
        graph.initializers.add(by_name[name])
    for name in by_name:
        if name in graph.initializers:
            # Old graphs list weights as inputs too.
            graph.inputs.remove(by_name[name])


def dtype(value: ir.Value) -> np.dtype[Any]:
    assert value.dtype is not None
    return value.dtype.numpy()


def _constant(declared: ir.Value, value: Any) -> np.ndarray:
    """A value in the type and shape of an input. Raises `ExportError` for an invalid value."""
    kind = dtype(declared)
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
    if declared.shape is not None and not fits:
        if cast.size == 1 and all(size in (None, 1) for size in dims):
            return cast.reshape([1] * len(dims))
        raise ExportError(
            f"constant {declared.name!r} has shape {list(cast.shape)}; allowed is "
            f"{['?' if size is None else size for size in dims]}"
        )
    return cast


def lengths_input(model: ir.Model) -> Lengths | None:
    """The graph's input for the length of each row; None if no recurrent operator reads one."""
    for operator in recurrent.find(model.graph):
        value = graphs.before_casts(operator.lengths)
        if value is not None and value.is_graph_input():
            return Lengths(name=str(value.name), dtype=str(dtype(value)))
    return None


def contexts(model: ir.Model, names: Sequence[str]) -> tuple[ContextSpec, ...]:
    """Inputs `[batch, *shape]`, given once per session.

    Raises `ExportError` for an unknown name, or for an input with an open shape.
    """
    by_name = {str(value.name): value for value in model.graph.inputs}
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
        kind = str(dtype(by_name[name]))
        found.append(ContextSpec(name=name, dtype=cast(DType, kind), shape=shape))
    return tuple(found)


def element(model: ir.Model, lengths: Lengths | None, others: Sequence[ContextSpec]) -> ir.Value:
    """The sequence input: the only input besides lengths and contexts."""
    taken = {each.name for each in others}
    if lengths is not None:
        taken.add(lengths.name)
    left = [value for value in model.graph.inputs if value.name not in taken]
    if len(left) == 1:
        return left[0]
    raise UnsupportedGraph(
        f"the graph has {len(left)} inputs ({', '.join(repr(value.name) for value in left)}), and "
        "one of them takes the sequence; say of the others that they are constants or contexts"
        if left
        else "the graph has no input"
    )


def element_spec(value: ir.Value, said: InputSpec | None) -> InputSpec:
    """The element's spec: `said` under the graph's own name and type, or a spec from the graph."""
    kind, name = str(dtype(value)), str(value.name)
    if said is not None:
        return replace(said, name=name, dtype=cast(DType, kind))
    declared = layout.dims(value)
    if kind in ("int32", "int64"):
        size = _table_size(value)
        if size is None:
            raise ExportError(
                f"input {value.name!r} takes ids, and the graph does not show how many there are; "
                "say it: tokens:SIZE"
            )
        return InputSpec(name=name, kind=InputKind.TOKENS, dtype=cast(DType, kind), size=size)
    shape = declared[2:] if len(declared) > 2 else declared[1:]
    if any(size is None for size in shape) or len(declared) < 2:
        raise ExportError(
            f"input {value.name!r} is declared with axes that are left open "
            f"({['?' if size is None else size for size in declared]}); say the shape of an "
            "element: features:SIZE"
        )
    return InputSpec(
        name=name,
        kind=InputKind.FEATURES,
        dtype=cast(DType, kind),
        shape=tuple(size for size in shape if size is not None),
    )


def _table_size(value: ir.Value) -> int | None:
    """The number of rows in the table indexed by an input; None if no table is found."""
    waiting = [value]
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type in ("Cast", "Identity", "Transpose"):
                waiting.extend(node.outputs)
            if node.op_type == "Gather" and index == 1:
                table = node.inputs[0]
                while table is not None and table.const_value is None:
                    maker = table.producer()
                    table = maker.inputs[0] if maker is not None and maker.inputs else None
                if table is not None:
                    return int(
                        graphs.initializer_value(table).shape[node.attributes.get_int("axis", 0)]
                    )
    return None
