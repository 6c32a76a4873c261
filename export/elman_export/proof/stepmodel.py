"""A step model in ONNX Runtime, run as described by the spec, for a proof."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from elman_export.candidate import Candidate
from elman_export.errors import ExportError
from elman_server.model.spec import ModelSpec, StateSpec
from elman_server.runner.ort import onnxruntime

Arrays = Mapping[str, np.ndarray]

_PADDING_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Outputs of a step model for some sequences, and the final states."""

    outputs: Arrays
    """By output name, `[batch, time, *shape]`."""
    states: Arrays
    """By state name, `[batch, *shape]`."""


class RuntimeFailed(ExportError):
    """A failure of ONNX Runtime to load or run a graph. The message is ONNX Runtime's, in
    one line."""


class Session:
    """A graph in ONNX Runtime, run like in a server: on the CPU, with one thread."""

    def __init__(self, model: bytes) -> None:
        """Loads the graph. Raises `RuntimeFailed`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        with _failures():
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        self.inputs = [each.name for each in self._session.get_inputs()]
        self.outputs = [each.name for each in self._session.get_outputs()]

    def run(self, names: Sequence[str], feed: Arrays) -> Arrays:
        """Returns the named outputs. Raises `RuntimeFailed`."""
        with _failures():
            return dict(zip(names, self._session.run(list(names), feed), strict=True))


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime raises classes of many modules
        raise RuntimeFailed(" ".join(str(error).split())) from error


class StepModel:
    """A serialized step model, with an initial-state network if present."""

    def __init__(self, model: bytes, spec: ModelSpec, initial: bytes | None = None) -> None:
        self.spec = spec
        self._session = Session(model)
        self._initial = None if initial is None else Session(initial)

    @staticmethod
    def of(candidate: Candidate) -> "StepModel":
        """Creates the step model of a candidate. Raises `RuntimeFailed`."""
        initial = None if candidate.initial is None else candidate.initial.SerializeToString()
        return StepModel(candidate.model.SerializeToString(), candidate.spec, initial)

    def run(
        self, x: np.ndarray, cuts: Sequence[Sequence[int]], contexts: Arrays | None = None
    ) -> Answer:
        """Runs `x [batch, time, *shape]` in chunks: one step for each chunk of a row.

        `cuts[row]` lists the numbers of elements in the row's chunks, in order, each at least 1.
        All rows have equally many chunks. In a step, shorter chunks are padded with noise.
        `contexts` are `[batch, *shape]` by name. If the model takes only a single row, the rows run
        one after another.
        """
        contexts = contexts or {}
        if not self.spec.batched and len(x) > 1:
            return self.run_alone(x, cuts, contexts)
        states = self._initial_states(len(x), contexts)
        outputs: dict[str, np.ndarray] = {}
        position = np.zeros(len(x), int)
        for lengths in np.array(cuts, np.int32).T:
            chunk = self._pad(x, position, lengths)
            answers, states = self._step(chunk, lengths, states, contexts)
            for name, answer in answers.items():
                if name not in outputs:
                    outputs[name] = np.zeros((*x.shape[:2], *answer.shape[2:]), answer.dtype)
                for row, (start, length) in enumerate(zip(position, lengths, strict=True)):
                    outputs[name][row, start : start + length] = answer[row, :length]
            position += lengths
        return Answer(
            outputs=outputs,
            states={
                state.name: np.moveaxis(states[state.name], state.batch_axis, 0)
                for state in self.spec.states
            },
        )

    def run_alone(
        self, x: np.ndarray, cuts: Sequence[Sequence[int]], contexts: Arrays | None = None
    ) -> Answer:
        """Calls `run` for each row alone."""
        rows = [
            self.run(
                x[row : row + 1],
                [cuts[row]],
                {name: value[row : row + 1] for name, value in (contexts or {}).items()},
            )
            for row in range(len(x))
        ]
        return Answer(
            outputs={
                name: np.concatenate([row.outputs[name] for row in rows])
                for name in rows[0].outputs
            },
            states={
                name: np.concatenate([row.states[name] for row in rows]) for name in rows[0].states
            },
        )

    def _initial_states(self, batch: int, contexts: Arrays) -> Arrays:
        """First states by name, in the state's own layout."""
        states = {
            state.name: _spread(state.initial_value(), state, batch) for state in self.spec.states
        }
        if self._initial is not None:
            names = list(self.spec.initialized)
            feed = {each.name: contexts[each.name] for each in self.spec.contexts}
            by_name = {state.name: state for state in self.spec.states}
            for name, value in self._initial.run(names, feed).items():
                states[name] = np.moveaxis(value, 0, by_name[name].batch_axis)
        return states

    def _step(
        self, chunk: np.ndarray, lengths: np.ndarray, states: Arrays, contexts: Arrays
    ) -> tuple[Arrays, Arrays]:
        spec = self.spec
        feed = {spec.input.name: chunk if spec.time_axis else chunk[:, 0]}
        feed |= {state.input: states[state.name] for state in spec.states}
        feed |= {each.input: contexts[each.name] for each in spec.contexts if each.input}
        if spec.lengths is not None:
            feed[spec.lengths] = lengths
        names = [*(out.name for out in spec.outputs), *(state.output for state in spec.states)]
        found = self._session.run(names, feed)
        outputs = {out.name: found[out.name] for out in spec.outputs}
        if not spec.time_axis:
            outputs = {name: value[:, None] for name, value in outputs.items()}
        return outputs, {state.name: found[state.output] for state in spec.states}

    def _pad(self, x: np.ndarray, position: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns `[batch, longest, *shape]`: each row's next elements, then elements from other
        places."""
        longest = int(lengths.max())
        noise = np.random.default_rng(_PADDING_SEED).permutation(x.reshape(-1, *x.shape[2:]))
        chunk = np.resize(noise, (len(x), longest, *x.shape[2:]))
        for row, (start, length) in enumerate(zip(position, lengths, strict=True)):
            chunk[row, :length] = x[row, start : start + length]
        return chunk


def _spread(value: np.ndarray, state: StateSpec, batch: int) -> np.ndarray:
    return np.repeat(np.expand_dims(value, state.batch_axis), batch, state.batch_axis)
