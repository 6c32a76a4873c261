"""Test runs of a streaming graph in a given layout."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from elman_export.errors import UnsupportedGraph
from elman_export.original.adoption.axes import Axes, ElementLayout
from elman_export.original.adoption.roles import Roles
from elman_export.proof.sample import random_elements
from elman_export.proof.stepmodel import Arrays, RuntimeFailed, Session
from elman_server.model.spec import InputSpec

_ROWS = (2, 3)
_STEPS = (4, 5)


class LayoutFailed(Exception):
    """A layout that does not fit the graph. The message gives the reason."""


def with_open_axes(
    model: onnx.ModelProto, axes: Mapping[str, int | None], dims: Mapping[str, Sequence[int | None]]
) -> onnx.ModelProto:
    """Returns a copy of the model with a variable number of rows on the given input axes. Outputs
    and inner tensors have no declared shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in copy.graph.input:
        if value.name not in axes:
            continue
        shape = value.type.tensor_type.shape
        shape.Clear()
        for axis, size in enumerate(dims[value.name]):
            dim = shape.dim.add()
            if axis == axes[value.name]:
                dim.dim_param = "batch"
            elif size is not None:
                dim.dim_value = size
    return copy


class Sessions:
    """Sessions of the graph in ONNX Runtime by open axes, and messages about states that grow."""

    def __init__(self, model: onnx.ModelProto, roles: Roles) -> None:
        self.model = model
        self.roles = roles
        self.grown: list[str] = []
        self._made: dict[tuple[tuple[str, int | None], ...], Session | LayoutFailed] = {}

    def get(self, axes: Mapping[str, int | None]) -> Session:
        """Returns the session with the given axes open. Raises `LayoutFailed` if the graph does not
        allow open axes."""
        key = tuple(sorted(axes.items()))
        if key not in self._made:
            ports = [self.roles.element, *self.roles.contexts]
            ports += [state.input for state in self.roles.states]
            dims = {port.name: port.dims or () for port in ports}
            known = {name: axis for name, axis in axes.items() if dims[name]}
            try:
                opened = with_open_axes(self.model, known, dims)
                self._made[key] = Session(opened.SerializeToString())
            except RuntimeFailed as error:
                self._made[key] = LayoutFailed(str(error))
        made = self._made[key]
        if isinstance(made, LayoutFailed):
            raise made
        return made


class LayoutCheck:
    """Check of a single layout."""

    def __init__(
        self,
        sessions: Sessions,
        input: InputSpec,
        *,
        element: ElementLayout,
        states: Mapping[str, Axes],
        contexts: Mapping[str, Axes],
    ) -> None:
        self.element = element
        self.states = states
        self.contexts = contexts
        self._sessions = sessions
        self._roles = sessions.roles
        self._input = input
        self._rng = np.random.default_rng(0)

    def outputs(self, whole: frozenset[str]) -> dict[str, Axes]:
        """Returns the layouts of the outputs.

        Raises `LayoutFailed` if the shapes of outputs or states do not follow the numbers of rows
        and steps; `UnsupportedGraph` for an output without a value per row.
        """
        time = self.element.axes.time is not None
        one = self._shapes(1, 1)
        rows = [self._shapes(count, 1) for count in _ROWS] if self.element.batched else []
        steps = [self._shapes(1, count) for count in _STEPS] if time else []
        found = {}
        for port in self._roles.outputs:
            name, shape = port.name, one[port.name]
            batch = _axis(name, shape, [each[name] for each in rows], _ROWS, "rows")
            if rows and batch is None:
                message = (
                    f"output {name!r} has shape {list(shape)} for one row and for {_ROWS[-1]}: it "
                    "does not come for each row"
                )
                if self.element.opened:
                    raise LayoutFailed(message)
                raise UnsupportedGraph(f"{message}; choose the outputs that do with --returns")
            step = _axis(name, shape, [each[name] for each in steps], _STEPS, "steps")
            if steps and step is None:
                raise LayoutFailed(
                    f"output {name!r} has shape {list(shape)} for one step and for {_STEPS[-1]}"
                )
            rest = [axis for axis in range(len(shape)) if axis not in (batch, step)]
            units = [axis for axis in rest if shape[axis] == 1]
            if name in whole and rest and rest[-1] in units:
                units.remove(rest[-1])
            found[name] = Axes(
                rank=len(shape),
                batch=batch,
                time=step,
                units=tuple(units),
                shape=tuple(shape[axis] for axis in rest if axis not in units),
            )
        if rows and steps:
            both = self._shapes(_ROWS[-1], _STEPS[-1])
            for name, axes in found.items():
                if both[name] != axes.sizes(_ROWS[-1], _STEPS[-1]):
                    raise LayoutFailed(
                        f"output {name!r} has shape {list(both[name])} for rows of steps"
                    )
        return found

    def check_rows(self, outputs: Mapping[str, Axes], tolerance: float) -> None:
        """Raises `LayoutFailed` if a row's results differ between a batch and a run alone."""
        time = 1 if self.element.axes.time is None else _STEPS[-1]
        count = _ROWS[-1]
        values = self._random_inputs(count, time)
        together = self._run(values, count, time)
        axes = {**outputs, **{s.output.name: self.states[s.input.name] for s in self._roles.states}}
        for row in range(count):
            alone = self._run({name: x[row : row + 1] for name, x in values.items()}, 1, time)
            for name, each in axes.items():
                expected = each.normal(alone[name]).astype(float)
                found = each.normal(together[name])[row : row + 1]
                allowed = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
                difference = float(np.abs(found - expected).max(initial=0))
                if not difference <= allowed:
                    raise LayoutFailed(
                        f"{name!r} differs by {difference:.3g} between a row alone and in a batch"
                    )

    def _shapes(self, batch: int, time: int) -> dict[str, tuple[int, ...]]:
        answer = self._run(self._random_inputs(batch, time), batch, time)
        for state in self._roles.states:
            before = self.states[state.input.name].sizes(batch, 1)
            after = answer[state.output.name].shape
            if before == after:
                continue
            message = (
                f"state {state.input.name!r} goes in as {list(before)} and comes back as "
                f"{list(after)} ({state.output.name!r}); a state keeps its shape"
            )
            if len(before) == len(after) and batch == time == 1:
                self._sessions.grown.append(message)
            raise LayoutFailed(message)
        return {name: value.shape for name, value in answer.items()}

    def _random_inputs(self, batch: int, time: int) -> dict[str, np.ndarray]:
        """Random `[batch, time, *shape]` for each input; a single step for inputs without steps."""
        shape = self.element.axes.shape
        rng = self._rng
        if self._input.size:
            x = random_elements(self._input, batch, time, rng)
        else:
            x = rng.standard_normal((batch, time, *shape)).astype(self._input.dtype)
        values = {self._roles.element.name: x}
        for port, axes in (
            *((state.input, self.states[state.input.name]) for state in self._roles.states),
            *((port, self.contexts[port.name]) for port in self._roles.contexts),
        ):
            size = (batch, 1, *axes.shape)
            floating = np.issubdtype(port.dtype, np.floating)
            value = rng.standard_normal(size) * 0.5 if floating else np.zeros(size)
            values[port.name] = value.astype(port.dtype)
        return values

    def _run(self, values: Arrays, batch: int, time: int) -> Arrays:
        """Runs the graph. Returns outputs by name, in the graph's layout."""
        roles = self._roles
        axes = {roles.element.name: self.element.axes, **self.states, **self.contexts}
        feed = {name: axes[name].arrange(value) for name, value in values.items()}
        feed |= roles.constants
        if roles.lengths is not None:
            feed[roles.lengths.name] = np.full(batch, time, roles.lengths.dtype)
        batched = {name: each.batch for name, each in axes.items() if self.element.batched}
        names = [port.name for port in roles.outputs]
        names += [state.output.name for state in roles.states]
        runtime = self._sessions.get(batched)
        unique = list(dict.fromkeys(names))
        try:
            return runtime.run(unique, feed)
        except RuntimeFailed as error:
            raise LayoutFailed(str(error)) from None


def _axis(
    name: str,
    one: tuple[int, ...],
    others: Sequence[tuple[int, ...]],
    sizes: Sequence[int],
    what: str,
) -> int | None:
    """Returns the axis with length 1 in `one` and lengths `sizes` in `others`; `None` if all shapes
    are equal. Raises `LayoutFailed` for any other difference."""
    if not others or all(shape == one for shape in others):
        return None
    if all(len(shape) == len(one) for shape in others):
        changed = {axis for shape in others for axis in range(len(one)) if shape[axis] != one[axis]}
        if len(changed) == 1:
            (axis,) = changed
            if (one[axis], *(shape[axis] for shape in others)) == (1, *sizes):
                return axis
    raise LayoutFailed(
        f"output {name!r} has shape {list(one)} for one of {what} and {list(others[-1])} for "
        f"{sizes[-1]}"
    )
