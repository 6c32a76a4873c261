"""A step model in ONNX Runtime: one call, one step. The only module that imports onnxruntime.

It checks that the graph has the tensors that the spec names, and lays states out with rows first;
it keeps no state and knows no sessions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from elman_server.errors import ModelLoadError
from elman_server.modelfile import ModelFile
from elman_server.spec import ModelSpec, StateSpec

Array = NDArray[Any]

# What a server computes is nobody else's business, and its root may be read-only.
ort.disable_telemetry_events()

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
    """How a state's axes are permuted between the graph and arrays with rows first."""

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
    """A loaded graph."""

    def __init__(self, file: ModelFile, *, threads: int, providers: Sequence[str]) -> None:
        """Raises `ModelLoadError` if the runtime refuses the file or the graph lacks what the spec
        names."""
        self.spec = file.spec
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise ModelLoadError(
                f"provider {missing[0]!r} is not available; this ONNX Runtime has "
                f"{', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # A spinning worker thread would take a core from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file.path), options, providers=list(providers))
        except Exception as error:  # onnxruntime raises classes of many modules
            raise ModelLoadError(one_line(error)) from error
        _check_tensors(file.spec, self._session)
        self._layouts = [_Layout.of(state) for state in file.spec.states]
        self._state_outputs = [state.output for state in file.spec.states]

    def step(
        self,
        elements: Array,
        lengths: NDArray[np.int32] | None,
        states: Sequence[Array],
        outputs: Iterable[str],
    ) -> tuple[dict[str, Array], list[Array]]:
        """One step.

        `elements` is `[rows, chunk, *shape]`, `lengths` is `[rows]` (None: every row is full), and
        `states` are `[rows, *shape]` in the spec's order. Returns the outputs, `[rows, chunk,
        *shape]`, and the new states, as the old ones are laid out.
        """
        spec = self.spec
        feeds: dict[str, Array] = {spec.input.name: elements if spec.time_axis else elements[:, 0]}
        if spec.lengths is not None:
            if lengths is None:
                lengths = np.full(len(elements), elements.shape[1], np.int32)
            feeds[spec.lengths] = lengths
        for layout, array in zip(self._layouts, states, strict=True):
            feeds[layout.input] = np.ascontiguousarray(array.transpose(layout.from_rows_first))
        names = list(outputs)
        results = self._session.run(names + self._state_outputs, feeds)
        values = dict(zip(names, results, strict=False))
        if not spec.time_axis:
            values = {name: value[:, None] for name, value in values.items()}
        return values, [
            array.transpose(layout.to_rows_first)
            for layout, array in zip(self._layouts, results[len(names) :], strict=True)
        ]

    def initial_states(self, rows: int) -> list[Array]:
        """`[rows, *shape]` for each state."""
        return [np.repeat(state.initial_value()[None], rows, axis=0) for state in self.spec.states]


def _check_tensors(spec: ModelSpec, session: ort.InferenceSession) -> None:
    wanted_inputs = {spec.input.name: spec.input.dtype}
    if spec.lengths is not None:
        wanted_inputs[spec.lengths] = "int32"
    wanted_outputs = {out.name: out.dtype for out in spec.outputs}
    for state in spec.states:
        wanted_inputs[state.input] = wanted_outputs[state.output] = state.dtype
    for side, wanted, nodes in (
        ("input", wanted_inputs, session.get_inputs()),
        ("output", wanted_outputs, session.get_outputs()),
    ):
        found = {node.name: _DTYPES.get(node.type, node.type) for node in nodes}
        for name, dtype in wanted.items():
            if name not in found:
                raise ModelLoadError(
                    f"the spec names {side} {name!r}; the graph has {', '.join(found)}"
                )
            if found[name] != dtype:
                raise ModelLoadError(
                    f"{side} {name!r} is {dtype} in the spec and {found[name]} in the graph"
                )
        if side == "input" and (more := found.keys() - wanted.keys()):
            raise ModelLoadError(f"the graph's input {min(more)!r} is not in the spec")


def one_line(error: Exception) -> str:
    """The runtime's own messages take several."""
    return " ".join(str(error).split())
