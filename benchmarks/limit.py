"""The in-process limit: ONNX Runtime alone, in a loop, with no server, queue or wire."""

import time
from pathlib import Path

import numpy as np

from elman_server.model import modelfile
from elman_server.runner.ort import onnxruntime


class Limit:
    """A step model fed as fast as it goes, from one thread, the state carried along."""

    def __init__(self, path: Path) -> None:
        self._spec = modelfile.read(path).spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._names = [out.name for out in self._spec.outputs]
        self._names += [state.output for state in self._spec.states]

    def elements_per_second(self, *, rows: int, chunk: int, seconds: float) -> float:
        """In steps of `rows` x `chunk`."""
        return rows * chunk / self.step_seconds(rows=rows, chunk=chunk, seconds=seconds)

    def step_seconds(self, *, rows: int, chunk: int, seconds: float) -> float:
        """The mean of as many steps of `rows` x `chunk` as fit into the seconds."""
        spec, rng = self._spec, np.random.default_rng(0)
        feeds = {spec.input.name: rng.integers(0, spec.input.size, (rows, chunk))}
        if spec.lengths:
            feeds[spec.lengths] = np.full(rows, chunk, np.int32)
        states = [
            np.ascontiguousarray(
                np.repeat(np.expand_dims(s.initial_value(), s.batch_axis), rows, s.batch_axis)
            )
            for s in spec.states
        ]
        steps, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for state, array in zip(spec.states, states, strict=True):
                feeds[state.input] = array
            results = self._session.run(self._names, feeds)
            states = results[len(spec.outputs) :]
            steps += 1
        return elapsed / steps
