"""The graph in the form of every step model: rows first, then steps, then the element.

The graph's own computation stays unchanged. A few nodes around the graph rearrange inputs and
outputs. An additional state keeps the overlap between elements.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import onnx
import onnx_ir as ir

from elman_export.candidate import Candidate
from elman_export.options import Options
from elman_export.original.adoption.axes import Axes
from elman_export.original.adoption.editing import Editing
from elman_export.original.adoption.layout import Layout
from elman_export.original.adoption.layoutcheck import with_open_axes
from elman_export.original.adoption.roles import Roles
from elman_export.surgery import graphs
from elman_server.model.spec import (
    ContextSpec,
    DType,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)

_LENGTHS = "lengths"


def wrap(
    model: onnx.ModelProto,
    roles: Roles,
    layout: Layout,
    *,
    input: InputSpec,
    overlap: int,
    options: Options,
) -> Candidate:
    """Returns the step model. `input` describes the element as pushed by clients."""
    meanings = options.meanings
    wrapper = _Wrapper(model, roles, layout, overlap)
    spec = ModelSpec(
        description=options.description,
        input=input,
        outputs=tuple(
            OutputSpec(
                name=port.name,
                kind=meanings[port.name].kind if port.name in meanings else OutputKind.VALUES,
                dtype=cast(DType, port.dtype),
                shape=layout.outputs[port.name].shape,
                labels=meanings[port.name].labels if port.name in meanings else (),
            )
            for port in roles.outputs
        ),
        states=(*wrapper.states(), *wrapper.element(input)),
        contexts=wrapper.contexts(),
        time_axis=layout.element.time is not None,
        lengths=wrapper.lengths(),
        batched=layout.batched,
    )
    wrapper.outputs(spec.outputs)
    return Candidate(model=wrapper.finish(), spec=spec)


class _Wrapper:
    def __init__(self, model: onnx.ModelProto, roles: Roles, layout: Layout, overlap: int) -> None:
        self._roles = roles
        self._layout = layout
        self._overlap = overlap
        self._rows: str | int = "batch" if layout.batched else 1
        opened = {}
        if layout.batched:
            opened = {name: axes.batch for name, axes in layout.states.items()}
            opened[roles.element.name] = layout.element.batch
        self._model = graphs.read(with_open_axes(model, opened, _dims(roles)))
        self._editing = Editing(self._model)
        graph = self._model.graph
        self._old_inputs = {str(value.name): value for value in graph.inputs}
        self._old_outputs = {str(value.name): value for value in graph.outputs}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._fix(graph)

    def _fix(self, graph: ir.Graph) -> None:
        """Turns constants into initializers. Drops the states' first values, now part of
        the spec."""
        for state in self._roles.states:
            graph.initializers.pop(state.input.name, None)
        for name, value in self._roles.constants.items():
            self._old_inputs[name].const_value = ir.Tensor(value, name=name)
            graph.initializers.add(self._old_inputs[name])
        self._model.ir_version = max(self._model.ir_version, 8)

    def element(self, input: InputSpec) -> tuple[StateSpec, ...]:
        """Rearranges the elements. Returns the state for the overlap, if any."""
        axes = self._layout.element
        time = ["time"] if axes.time is not None else []
        source = self._input(input.name, input.dtype, [self._rows, *time, *input.shape])
        states = tuple[StateSpec, ...]()
        if self._overlap:
            source, states = self._joined(source, input)
        self._enter(source, axes, self._old_inputs[input.name])
        return states

    def _input(self, name: str, dtype: str, dims: Sequence[str | int | None]) -> ir.Value:
        self._inputs.append(graphs.typed_value(name, dtype, dims))
        return self._inputs[-1]

    def _output(
        self, found: ir.Value, name: str, dtype: str, dims: Sequence[str | int | None]
    ) -> None:
        made = self._editing.node("Identity", [found], name)
        graphs.set_type(made, dtype, dims)
        self._outputs.append(made)

    def _joined(self, x: ir.Value, input: InputSpec) -> tuple[ir.Value, tuple[StateSpec, ...]]:
        """Puts the end of the previous element in front of each element."""
        editing, overlap = self._editing, self._overlap
        name = editing.fresh("overlap")
        following = editing.fresh("overlap.next")
        time = self._layout.element.time is not None
        last = 1 + time + len(input.shape) - 1
        shape = (*input.shape[:-1], overlap)
        earlier = self._input(name, input.dtype, [self._rows, *shape])
        if not time:
            full = editing.node("Concat", [earlier, x], axis=last)
            size = input.shape[-1] + overlap
            kept = editing.sliced(full, last, size - overlap, size)
        else:
            size = input.shape[-1]
            tails = editing.sliced(x, last, size - overlap, size)
            first = editing.unsqueezed(earlier, [1])
            ahead = editing.node("Concat", [first, editing.sliced(tails, 1, 0, -1)], axis=1)
            full = editing.node("Concat", [ahead, x], axis=last)
            kept = editing.squeezed(editing.sliced(tails, 1, -1, 2**31 - 1), [1])
        self._output(kept, following, input.dtype, [self._rows, *shape])
        state = StateSpec(
            name=name, input=name, output=following, dtype=input.dtype, shape=shape, batch_axis=0
        )
        return full, (state,)

    def states(self) -> list[StateSpec]:
        requested = {port.name for port in self._roles.outputs}
        specs = []
        for state in self._roles.states:
            name, target, dtype = state.input.name, state.output.name, state.input.dtype
            axes = self._layout.states[name]
            given, made = self._old_inputs[name], self._old_outputs[target]
            dims: list[str | int | None] = list(axes.shape)
            dims.insert(axes.batch or 0, self._rows)
            if axes.batch is None:
                self._enter(self._input(name, dtype, dims), axes, given)
            else:
                graphs.set_type(given, dtype, dims)
                self._inputs.append(given)
            if target in requested or axes.batch is None:
                # A requested output keeps its name. A tensor without rows is renamed.
                if target in requested:
                    target = self._editing.fresh(f"{target}.next")
                else:
                    made.name = self._editing.fresh(f"{target}/inner")
                found = self._editing.unsqueezed(made, [0]) if axes.batch is None else made
                self._output(found, target, dtype, dims)
            else:
                graphs.set_type(made, dtype, dims)
                self._outputs.append(made)
            first = None
            if state.initial is not None:
                value = state.initial if axes.batch is None else state.initial.take(0, axes.batch)
                first = tuple(float(number) for number in value.reshape(-1))
            specs.append(
                StateSpec(
                    name=name,
                    input=name,
                    output=target,
                    dtype=cast(DType, dtype),
                    shape=axes.shape,
                    batch_axis=axes.batch or 0,
                    initial=first,
                )
            )
        return specs

    def contexts(self) -> tuple[ContextSpec, ...]:
        specs = []
        for port in self._roles.contexts:
            axes = self._layout.contexts[port.name]
            given = self._input(port.name, port.dtype, [self._rows, *axes.shape])
            self._enter(given, axes, self._old_inputs[port.name])
            specs.append(
                ContextSpec(
                    name=port.name,
                    dtype=cast(DType, port.dtype),
                    shape=axes.shape,
                    input=port.name,
                )
            )
        return tuple(specs)

    def lengths(self) -> str | None:
        port = self._roles.lengths
        if port is None:
            return None
        name = self._editing.fresh(_LENGTHS)
        kind = ir.DataType.INT64 if port.dtype == "int64" else ir.DataType.INT32
        given = self._input(name, "int32", [self._rows])
        inner = self._editing.node("Cast", [given], to=int(kind))
        graphs.replace(self._old_inputs[port.name], inner)
        return name

    def outputs(self, specs: Sequence[OutputSpec]) -> None:
        editing = self._editing
        for spec in specs:
            axes = self._layout.outputs[spec.name]
            found = self._old_outputs[spec.name]
            found.name = editing.fresh(f"{spec.name}/inner")
            found = editing.squeezed(found, axes.units)
            kept = sorted(axes.order)
            order = [kept.index(axis) for axis in axes.order]
            found = editing.transposed(found, order)
            if axes.batch is None:
                found = editing.unsqueezed(found, [0])
            time = ["time"] if axes.time is not None else []
            self._output(found, spec.name, spec.dtype, [self._rows, *time, *spec.shape])

    def finish(self) -> onnx.ModelProto:
        graph = self._model.graph
        graph.inputs.clear()
        graph.inputs.extend(self._inputs)
        graph.outputs.clear()
        graph.outputs.extend(self._outputs)
        graph.sort()
        graph.name = "step"
        self._model.metadata_props.clear()
        return graphs.write(self._model)

    def _enter(self, source: ir.Value, axes: Axes, old: ir.Value) -> None:
        """Converts `[batch, time, *shape]` to the graph's layout, in the place of an old input."""
        editing = self._editing
        if axes.batch is None:
            source = editing.squeezed(source, [0])
        kept = sorted(axes.order)
        source = editing.transposed(source, [axes.order.index(axis) for axis in kept])
        source = editing.unsqueezed(source, axes.units)
        graphs.replace(old, editing.node("Identity", [source]))


def _dims(roles: Roles) -> dict[str, Sequence[int | None]]:
    ports = [roles.element, *(state.input for state in roles.states)]
    return {port.name: port.dims or () for port in ports}


def of_stream(input: InputSpec, shape: tuple[int, ...], overlap: int) -> InputSpec:
    """Describes the element as pushed by clients, for a graph with elements of `shape`."""
    if overlap:
        shape = (*shape[:-1], shape[-1] - overlap)
    return replace(input, shape=shape)
