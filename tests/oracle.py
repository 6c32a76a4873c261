"""What a session's predictions must be: the step model run alone, element by element, in ONNX
Runtime, without any of the server's own code on the way."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from elman_server.model import modelfile

Contexts = Mapping[str, Any]
"""What a session is given once, by name."""


class Oracle:
    """A session of a step model, run by hand."""

    def __init__(self, path: Path) -> None:
        file = modelfile.read(path)
        self.spec = file.spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._initial = (
            None if file.initial is None else onnxruntime.InferenceSession(file.initial, options)
        )
        if not self.spec.contexts:
            self.reset()

    def reset(self, contexts: Contexts | None = None) -> None:
        """Back to the initial state, of a session with these contexts."""
        given = {
            each.name: np.asarray((contexts or {})[each.name], each.dtype)[None]
            for each in self.spec.contexts
        }
        self._constant = {each.input: given[each.name] for each in self.spec.contexts if each.input}
        initial = {state.name: state.initial_value()[None] for state in self.spec.states}
        if self._initial is not None:
            feeds = {node.name: given[node.name] for node in self._initial.get_inputs()}
            names = list(self.spec.initialized)
            initial |= dict(zip(names, self._initial.run(names, feeds), strict=True))
        self._states = {
            state.input: np.ascontiguousarray(np.moveaxis(initial[state.name], 0, state.batch_axis))
            for state in self.spec.states
        }

    def step(self, element: Any) -> dict[str, NDArray[Any]]:
        """The outputs for one more element: a character, an id or features."""
        spec = self.spec
        number = spec.input.vocabulary.index(element) if isinstance(element, str) else element
        shape = (1, 1, *spec.input.shape) if spec.time_axis else (1, *spec.input.shape)
        feeds = {
            spec.input.name: np.full(shape, number, spec.input.dtype),
            **self._constant,
            **self._states,
        }
        if spec.lengths is not None:
            feeds[spec.lengths] = np.array([1], np.int32)
        names = [output.name for output in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(names, feeds), strict=True))
        self._states = {state.input: results[state.output] for state in spec.states}
        return {out.name: results[out.name].reshape(out.shape) for out in spec.outputs}

    def run(
        self, elements: Iterable[Any], contexts: Contexts | None = None
    ) -> list[dict[str, NDArray[Any]]]:
        """The outputs for each element of a whole session."""
        self.reset(contexts)
        return [self.step(element) for element in elements]
