"""The graph in the form of every step model: rows first, then steps, then the element.

The graph's own computation stays unchanged. A few nodes around the graph rearrange inputs and
outputs. An additional state keeps the overlap between elements.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import onnx

from elman_export.candidate import Candidate
from elman_export.options import Options
from elman_export.original.adoption.axes import Axes
from elman_export.original.adoption.editing import Editing, value_info
from elman_export.original.adoption.layout import Layout
from elman_export.original.adoption.layoutcheck import with_open_axes
from elman_export.original.adoption.roles import Roles
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
        self._editing = Editing(with_open_axes(model, opened, _dims(roles)))
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._fix()

    def _fix(self) -> None:
        """Turns constants into initializers. Drops the states' first values, now part of
        the spec."""
        graph = self._editing.graph
        gone = {*self._roles.constants, *(state.input.name for state in self._roles.states)}
        kept = [each for each in graph.initializer if each.name not in gone]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        for name, value in self._roles.constants.items():
            self._editing.constant(name, value)
        self._editing.model.ir_version = max(self._editing.model.ir_version, 8)

    def element(self, input: InputSpec) -> tuple[StateSpec, ...]:
        """Rearranges the elements. Returns the state for the overlap, if any."""
        axes = self._layout.element
        inner = self._inner(input.name)
        time = ["time"] if axes.time is not None else []
        self._inputs.append(value_info(input.name, input.dtype, [self._rows, *time, *input.shape]))
        source, states = input.name, tuple[StateSpec, ...]()
        if self._overlap:
            source, states = self._joined(input)
        self._enter(source, axes, inner)
        return states

    def _joined(self, input: InputSpec) -> tuple[str, tuple[StateSpec, ...]]:
        """Puts the end of the previous element in front of each element."""
        editing, overlap = self._editing, self._overlap
        name = editing.fresh("overlap")
        following = editing.fresh("overlap.next")
        time = self._layout.element.time is not None
        last = 1 + time + len(input.shape) - 1
        if not time:
            full = editing.before("Concat", [name, input.name], axis=last)
            size = input.shape[-1] + overlap
            kept = editing.sliced(full, last, size - overlap, size)
        else:
            size = input.shape[-1]
            tails = editing.sliced(input.name, last, size - overlap, size)
            first = editing.unsqueezed("before", name, [1])
            earlier = editing.sliced(tails, 1, 0, -1)
            ahead = editing.before("Concat", [first, earlier], axis=1)
            full = editing.before("Concat", [ahead, input.name], axis=last)
            kept = editing.squeezed("before", editing.sliced(tails, 1, -1, 2**31 - 1), [1])
        editing.before("Identity", [kept], following)
        shape = (*input.shape[:-1], overlap)
        for values, tensor in ((self._inputs, name), (self._outputs, following)):
            values.append(value_info(tensor, input.dtype, [self._rows, *shape]))
        state = StateSpec(
            name=name, input=name, output=following, dtype=input.dtype, shape=shape, batch_axis=0
        )
        return full, (state,)

    def states(self) -> list[StateSpec]:
        editing = self._editing
        requested = {port.name for port in self._roles.outputs}
        specs = []
        for state in self._roles.states:
            name, target = state.input.name, state.output.name
            axes = self._layout.states[name]
            if target in requested or axes.batch is None:
                # A requested output keeps its name. A tensor without rows is renamed.
                inner = target if target in requested else self._inner(target)
                target = editing.fresh(f"{target}.next") if target in requested else target
                found = editing.unsqueezed("behind", inner, [0]) if axes.batch is None else inner
                editing.behind("Identity", [found], target)
            if axes.batch is None:
                self._enter(name, axes, self._inner(name))
            dims: list[str | int | None] = list(axes.shape)
            dims.insert(axes.batch or 0, self._rows)
            self._inputs.append(value_info(name, state.input.dtype, dims))
            self._outputs.append(value_info(target, state.input.dtype, dims))
            first = None
            if state.initial is not None:
                value = state.initial if axes.batch is None else state.initial.take(0, axes.batch)
                first = tuple(float(number) for number in value.reshape(-1))
            specs.append(
                StateSpec(
                    name=name,
                    input=name,
                    output=target,
                    dtype=cast(DType, state.input.dtype),
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
            self._enter(port.name, axes, self._inner(port.name))
            self._inputs.append(value_info(port.name, port.dtype, [self._rows, *axes.shape]))
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
        inner = self._inner(port.name)
        name = self._editing.fresh(_LENGTHS)
        self._inputs.append(value_info(name, "int32", [self._rows]))
        kind = onnx.TensorProto.INT64 if port.dtype == "int64" else onnx.TensorProto.INT32
        self._editing.before("Cast", [name], inner, to=kind)
        return name

    def outputs(self, specs: Sequence[OutputSpec]) -> None:
        editing = self._editing
        for spec in specs:
            axes = self._layout.outputs[spec.name]
            found = self._inner(spec.name)
            found = editing.squeezed("behind", found, axes.units)
            kept = sorted(axes.order)
            order = [kept.index(axis) for axis in axes.order]
            found = editing.transposed("behind", found, order)
            if axes.batch is None:
                found = editing.unsqueezed("behind", found, [0])
            editing.behind("Identity", [found], spec.name)
            time = ["time"] if axes.time is not None else []
            self._outputs.append(
                value_info(spec.name, spec.dtype, [self._rows, *time, *spec.shape])
            )

    def finish(self) -> onnx.ModelProto:
        self._editing.finish(self._inputs, self._outputs)
        model = self._editing.model
        model.graph.name = "step"
        del model.metadata_props[:]
        return model

    def _inner(self, name: str) -> str:
        """Renames a tensor inside the graph and returns the new name. The old name is free for the
        step model's own inputs and outputs."""
        inner = self._editing.fresh(f"{name}/inner")
        self._editing.rename(name, inner)
        return inner

    def _enter(self, source: str, axes: Axes, inner: str) -> None:
        """Converts `[batch, time, *shape]` to the graph's layout."""
        editing = self._editing
        if axes.batch is None:
            source = editing.squeezed("before", source, [0])
        kept = sorted(axes.order)
        source = editing.transposed("before", source, [axes.order.index(axis) for axis in kept])
        source = editing.unsqueezed("before", source, axes.units)
        editing.before("Identity", [source], inner)


def _dims(roles: Roles) -> dict[str, Sequence[int | None]]:
    ports = [roles.element, *(state.input for state in roles.states)]
    return {port.name: port.dims or () for port in ports}


def of_stream(input: InputSpec, shape: tuple[int, ...], overlap: int) -> InputSpec:
    """Describes the element as pushed by clients, for a graph with elements of `shape`."""
    if overlap:
        shape = (*shape[:-1], shape[-1] - overlap)
    return replace(input, shape=shape)
