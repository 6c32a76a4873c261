"""Search for the rows and steps of a streaming graph, in test runs.

The graph's declarations decide the layouts to try, and the order. A layout is accepted only after
runs with one, two and three rows and with several steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import onnx

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.original.adoption.axes import Axes, ElementLayout, element_layouts
from elman_export.original.adoption.layoutcheck import LayoutCheck, LayoutFailed, Sessions
from elman_export.original.adoption.port import Dims, shape_text
from elman_export.original.adoption.roles import Roles, State
from elman_server.model.spec import InputKind, InputSpec

_MAX_LAYOUTS = 64
_MAX_SIZES = 4000
_USUAL_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Layout of every tensor of a step in the graph."""

    element: Axes
    states: Mapping[str, Axes]
    """By the state's input name. Units stay in the state's shape."""
    contexts: Mapping[str, Axes]
    outputs: Mapping[str, Axes]
    batched: bool
    many_steps: bool
    """Whether the input has an open axis that always gets one step."""


def find(
    model: onnx.ModelProto,
    roles: Roles,
    input: InputSpec,
    *,
    shape: tuple[int, ...] | None,
    whole: frozenset[str],
    one_step: bool,
    tolerance: float,
) -> Layout:
    """Returns the first layout with runs that fit a step model.

    `shape` is the shape of the graph's own elements, `None` if only the graph declares the shape.
    Outputs in `whole` keep a last axis of length 1. With `one_step`, layouts with a time axis are
    skipped. Raises `UnsupportedGraph` if no layout fits, with the reason for the last failure;
    `ExportError` if the declarations are ambiguous.
    """
    reasons: list[str] = []
    sessions = Sessions(model, roles)
    tried = 0
    for element in _element_layouts(roles, input, shape):
        if one_step and element.axes.time is not None:
            continue
        if element.axes.time is None and roles.lengths is not None:
            continue
        for contexts in _context_layouts(roles, element.batched):
            for sized in _state_layouts(model, roles, element.batched):
                if (tried := tried + 1) > _MAX_LAYOUTS:
                    break
                found = []
                for states in sized:
                    check = LayoutCheck(
                        sessions, input, element=element, states=states, contexts=contexts
                    )
                    try:
                        found.append(_layout(check, whole, tolerance))
                    except LayoutFailed as error:
                        reasons.append(str(error))
                if len(found) > 1:
                    raise _ambiguous(found)
                if found:
                    return found[0]
    expected = shape_text(shape) if shape is not None else "the declared shape"
    if not reasons:
        raise UnsupportedGraph(
            f"input {roles.element} can't take elements of {expected}: its axes do not fit"
            + (", or it has none for the time, which lengths are for" if roles.lengths else "")
        )
    raise UnsupportedGraph(
        next(iter(sessions.grown), "")
        or f"no layout of rows and steps was found in which {roles.element.name!r} takes "
        f"elements of {expected}; the simplest fails with: {reasons[-1]}"
    )


def _element_layouts(
    roles: Roles, input: InputSpec, shape: tuple[int, ...] | None
) -> list[ElementLayout]:
    port = roles.element
    if shape is None and input.kind is not InputKind.FEATURES:
        shape = ()
    if port.dims is not None:
        found = element_layouts(port.dims, shape)
        if shape is None and None in port.dims:
            # An open axis may hold rows or steps. With two or more, one may belong to the element.
            opened = port.dims.count(None)
            fixed = [size for size in port.dims if size not in (None, 1)]
            if opened > 1 and not fixed:
                raise ExportError(_open_shape(port.dims, port.name))
        return found
    if shape is None:
        raise ExportError(_open_shape(None, port.name))
    return [each for more in (1, 2, 0) for each in element_layouts((None,) * more + shape, shape)]


def _open_shape(dims: Dims | None, name: str) -> str:
    return (
        f"input {name!r} is declared as {shape_text(dims)}, which does not say what an element is: "
        "pass --input features:SHAPE (in Python, input=features(...)) with the shape of one element"
    )


def _state_layouts(
    model: onnx.ModelProto, roles: Roles, batched: bool
) -> Iterator[Iterator[dict[str, Axes]]]:
    """Yields a group of layouts for each choice of batch axes. A group has several layouts if the
    sizes of some states are unknown."""
    inferred = _inferred(model)
    options = []
    for state in roles.states:
        dims = _known(state, inferred)
        options.append([(state.input.name, dims, axis) for axis in _batch_axes(dims, batched)])
    for choice in product(*options):
        # States of one shape have one layout.
        layouts = {dims: axis for _, dims, axis in choice}
        if any(layouts[dims] != axis for _, dims, axis in choice):
            continue
        yield _sized(model, choice)


def _known(state: State, inferred: Mapping[str, Dims]) -> Dims:
    dims = state.declared.dims
    found = inferred.get(state.output.name)
    if state.initial is not None:
        found = state.initial.shape
    if dims is None and found is None:
        raise ExportError(
            f"state {state.input.name!r} is declared without a number of axes, nor does the graph "
            "show it: export it with a shape"
        )
    if dims is None:
        assert found is not None
        return found
    if found is not None and len(found) == len(dims):
        dims = tuple(b if a is None else a for a, b in zip(dims, found, strict=True))
    return dims


def _inferred(model: onnx.ModelProto) -> dict[str, Dims]:
    """Returns output sizes inferred from the operators, ignoring the outputs' declared shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # the library's own errors; then no size is known
        return {}
    return {
        value.name: tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)
        for value in copy.graph.output
        if value.type.tensor_type.HasField("shape")
    }


def _batch_axes(dims: Dims, batched: bool) -> list[int | None]:
    """Returns possible axes of the rows, open axes first."""
    found: list[int | None] = [axis for axis, size in enumerate(dims) if size is None]
    found += [axis for axis, size in enumerate(dims) if size == 1]
    if batched:
        return found
    return [*found, None]


def _sized(
    model: onnx.ModelProto, choice: tuple[tuple[str, Dims, int | None], ...]
) -> Iterator[dict[str, Axes]]:
    """Yields every choice of sizes for open axes, except the batch axis."""
    gaps = [
        (name, axis)
        for name, dims, batch in choice
        for axis, size in enumerate(dims)
        if size is None and axis != batch
    ]
    sizes = sorted({*_USUAL_SIZES, *_sizes_in(model)}) if gaps else []
    if len(sizes) ** len(gaps) > _MAX_SIZES:
        name, axis = gaps[0]
        raise ExportError(
            f"state {name!r} leaves the size of axis {axis} open, and others do too: export the "
            "graph with sizes"
        )
    for filled in product(sizes, repeat=len(gaps)):
        by_gap = dict(zip(gaps, filled, strict=True))
        yield {
            name: _state_axes(
                tuple(by_gap.get((name, axis), size) for axis, size in enumerate(dims)), batch
            )
            for name, dims, batch in choice
        }


def _sizes_in(model: onnx.ModelProto) -> set[int]:
    return {size for each in model.graph.initializer for size in each.dims if 0 < size <= 4096}


def _state_axes(dims: Dims, batch: int | None) -> Axes:
    shape = tuple(size or 1 for axis, size in enumerate(dims) if axis != batch)
    return Axes(rank=len(dims), batch=batch, time=None, shape=shape)


def _context_layouts(roles: Roles, batched: bool) -> Iterator[dict[str, Axes]]:
    options = []
    for port in roles.contexts:
        if port.dims is None:
            raise ExportError(f"context {port.name!r} is declared without a shape")
        axes = _batch_axes(port.dims, batched)
        found = []
        for batch in axes:
            others = [size for axis, size in enumerate(port.dims) if axis != batch]
            if None not in others:
                found.append((port.name, _state_axes(port.dims, batch)))
        if not found and None in port.dims:
            raise ExportError(f"context {port} must have no open axis but that of the rows")
        options.append(found)
    for choice in product(*options):
        yield dict(choice)


def _layout(check: LayoutCheck, whole: frozenset[str], tolerance: float) -> Layout:
    outputs = check.outputs(whole)
    element = check.element
    if element.batched:
        check.check_rows(outputs, tolerance)
    return Layout(
        element=element.axes,
        states=check.states,
        contexts=check.contexts,
        outputs=outputs,
        batched=element.batched,
        many_steps=element.open_units > 0,
    )


def _ambiguous(found: list[Layout]) -> ExportError:
    one, other = found[:2]
    name = next(name for name in one.states if one.states[name] != other.states[name])
    shapes = ", ".join(str(list(each.states[name].shape)) for each in found[:5])
    return ExportError(
        f"the shape of state {name!r} is not declared, and the graph runs with several: {shapes}; "
        "export it with a shape"
    )
