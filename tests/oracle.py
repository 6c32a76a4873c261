"""What a session's predictions must be: the step model run alone, element by element, in ONNX
Runtime, without any of the server's own code on the way."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from elman_server import modelfile


class Oracle:
    """A session of a step model, run by hand."""

    def __init__(self, path: Path) -> None:
        self.spec = modelfile.read(path).spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options)
        self.reset()

    def reset(self) -> None:
        """Back to the initial state."""
        self._states = {
            state.input: np.expand_dims(state.initial_value(), state.batch_axis)
            for state in self.spec.states
        }

    def step(self, element: Any) -> dict[str, NDArray[Any]]:
        """The outputs for one more element: a character, an id or features."""
        spec = self.spec
        number = spec.input.vocabulary.index(element) if isinstance(element, str) else element
        shape = (1, 1, *spec.input.shape) if spec.time_axis else (1, *spec.input.shape)
        feeds = {spec.input.name: np.full(shape, number, spec.input.dtype), **self._states}
        if spec.lengths is not None:
            feeds[spec.lengths] = np.array([1], np.int32)
        names = [output.name for output in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(names, feeds), strict=True))
        self._states = {state.input: results[state.output] for state in spec.states}
        return {out.name: results[out.name].reshape(out.shape) for out in spec.outputs}

    def run(self, elements: Iterable[Any]) -> list[dict[str, NDArray[Any]]]:
        """The outputs for each element of a whole session."""
        self.reset()
        return [self.step(element) for element in elements]
