"""A step model in ONNX Runtime: one call runs one step.

The model checks its graphs for the spec's tensors, and arranges states with rows first. It keeps no
state and knows no sessions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.errors import ModelLoadError
from elman_server.model.modelfile import ModelFile
from elman_server.model.spec import ModelSpec, StateSpec
from elman_server.runner.bound import BoundStep, HostMemory, Memory
from elman_server.runner.denormals import as_zero
from elman_server.runner.runtime import CPU, Device, open_session, run_options

Array = NDArray[Any]

_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Permutations of a state's axes between the graph's order and rows first."""

    input: str
    from_rows_first: tuple[int, ...]
    to_rows_first: tuple[int, ...]

    @staticmethod
    def of(state: StateSpec) -> "_Layout":
        others = range(1, len(state.shape) + 1)
        from_rows_first = (*others[: state.batch_axis], 0, *others[state.batch_axis :])
        return _Layout(
            input=state.input,
            from_rows_first=from_rows_first,
            to_rows_first=tuple(int(axis) for axis in np.argsort(from_rows_first)),
        )


class StepModel:
    """A loaded graph and, if the model has one, its initial-state network."""

    def __init__(
        self,
        file: ModelFile,
        *,
        threads: int,
        providers: Sequence[str],
        device: Device = CPU,
        max_run_nbytes: int | None = None,
        before_run: Callable[[], None] = lambda: None,
    ) -> None:
        """`providers` apply to the CPU alone; another device has its own. `max_run_nbytes`: limit
        of host bytes for the runs of all models with a limit; `None`: no limit. `before_run` is
        called before `step` and `begin` run a graph.

        Raises `ModelLoadError` if the runtime refuses the file, or if a graph lacks a tensor of the
        spec.
        """
        self.spec = file.spec
        self.device = device
        self._before_run = before_run

        def opened(model: bytes) -> Any:
            return open_session(
                model,
                device=device,
                threads=threads,
                providers=providers,
                max_run_nbytes=max_run_nbytes,
            )

        self._session = opened(file.model)
        self._initial = None
        if file.initial is not None:
            try:
                self._initial = opened(file.initial)
            except ModelLoadError as error:
                raise ModelLoadError(f"the initial-state network: {error}") from error
        _check_tensors(file.spec, self._session)
        if self._initial is not None:
            _check_initial_tensors(file.spec, self._initial)
        self._layouts = [_Layout.of(state) for state in file.spec.states]
        self._state_outputs = [state.output for state in file.spec.states]
        self._context_inputs = [c.input for c in file.spec.contexts if c.input is not None]

    def step(
        self,
        elements: Array,
        lengths: NDArray[np.int32] | None,
        states: Sequence[Array],
        outputs: Iterable[str],
        contexts: Sequence[Array] = (),
    ) -> tuple[dict[str, Array], list[Array]]:
        """Runs one step.

        `elements` is `[rows, chunk, *shape]`, `lengths` is `[rows]` (`None`: every row is full).
        `states` and `contexts` are `[rows, *shape]` in the order of the spec's `states` and
        `step_contexts`. Returns the outputs, `[rows, chunk, *shape]`, and the new states in the
        layout of `states`.
        """
        spec = self.spec
        feeds: dict[str, Array] = {spec.input.name: elements if spec.time_axis else elements[:, 0]}
        if spec.lengths is not None:
            if lengths is None:
                lengths = np.full(len(elements), elements.shape[1], np.int32)
            feeds[spec.lengths] = lengths
        for layout, array in zip(self._layouts, states, strict=True):
            feeds[layout.input] = np.ascontiguousarray(array.transpose(layout.from_rows_first))
        for context, array in zip(self._context_inputs, contexts, strict=True):
            feeds[context] = array
        names = list(outputs)
        self._before_run()
        with as_zero:
            results = self._session.run(names + self._state_outputs, feeds)
        values = dict(zip(names, results, strict=False))
        if not spec.time_axis:
            values = {name: value[:, None] for name, value in values.items()}
        return values, [
            array.transpose(layout.to_rows_first)
            for layout, array in zip(self._layouts, results[len(names) :], strict=True)
        ]

    def bind(
        self, rows: int, chunk: int, outputs: frozenset[str], *, host: HostMemory, memory: Memory
    ) -> BoundStep:
        """Returns a reusable step of fixed shape, with inputs and outputs in the given memory."""
        return BoundStep(
            self._session,
            self.spec,
            rows=rows,
            chunk=chunk,
            outputs=outputs,
            host=host,
            memory=memory,
        )

    def initial_states(self, rows: int) -> list[Array]:
        """Returns the spec's initial states, `[rows, *shape]` each."""
        return [np.repeat(state.initial_value()[None], rows, axis=0) for state in self.spec.states]

    def begin(
        self, contexts: Mapping[str, Array], interrupt: Interrupt | None = None
    ) -> list[Array]:
        """Returns first states, `[rows, *shape]` in the spec's order, for contexts `[rows, *shape]`
        by name.

        Raises the runtime's errors, and `ValueError` for a state of the wrong shape.
        """
        rows = len(next(iter(contexts.values())))
        states = self.initial_states(rows)
        if self._initial is None:
            return states
        names = self.spec.initialized
        feeds = {node.name: contexts[node.name] for node in self._initial.get_inputs()}
        self._before_run()
        with as_zero:
            values = self._initial.run(list(names), feeds, run_options(interrupt))
        found = dict(zip(names, values, strict=True))
        for index, state in enumerate(self.spec.states):
            if state.name not in found:
                continue
            value = found[state.name]
            if value.shape != (rows, *state.shape):
                raise ValueError(
                    f"it gives state {state.name!r} in shape {list(value.shape)} for {rows} rows; "
                    f"the spec says {[rows, *state.shape]}"
                )
            states[index] = value
        return states


def _check_tensors(spec: ModelSpec, session: Any) -> None:
    inputs = {spec.input.name: spec.input.dtype}
    if spec.lengths is not None:
        inputs[spec.lengths] = "int32"
    outputs = {out.name: out.dtype for out in spec.outputs}
    for state in spec.states:
        inputs[state.input] = outputs[state.output] = state.dtype
    inputs |= {context.input: context.dtype for context in spec.contexts if context.input}
    _check_side("input", "the graph", inputs, session.get_inputs())
    _check_side("output", "the graph", outputs, session.get_outputs())
    _check_no_others("the graph", inputs, session)


def _check_initial_tensors(spec: ModelSpec, session: Any) -> None:
    graph = "the initial-state network"
    taken = {node.name for node in session.get_inputs()}
    contexts = {context.name: context.dtype for context in spec.contexts}
    # Contexts that the steps take are optional here.
    inputs = {c.name: c.dtype for c in spec.contexts if c.input is None or c.name in taken}
    dtypes = {state.name: state.dtype for state in spec.states}
    outputs = {name: dtypes[name] for name in spec.initialized}
    _check_side("input", graph, inputs, session.get_inputs())
    _check_side("output", graph, outputs, session.get_outputs())
    _check_no_others(graph, contexts, session)


def _check_side(side: str, graph: str, wanted: Mapping[str, str], nodes: Sequence[Any]) -> None:
    found = {node.name: _DTYPES.get(node.type, node.type) for node in nodes}
    for name, dtype in wanted.items():
        if name not in found:
            raise ModelLoadError(f"the spec names {side} {name!r}; {graph} has {', '.join(found)}")
        if found[name] != dtype:
            raise ModelLoadError(
                f"{side} {name!r} is {dtype} in the spec and {found[name]} in {graph}"
            )


def _check_no_others(graph: str, wanted: Mapping[str, str], session: Any) -> None:
    more = {node.name for node in session.get_inputs()} - wanted.keys()
    if more:
        raise ModelLoadError(f"{graph}'s input {min(more)!r} is not in the spec")
