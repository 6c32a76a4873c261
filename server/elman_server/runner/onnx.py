"""The runner on ONNX Runtime: it owns the state arrays, one for each state tensor, a row a slot."""

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.batch import Batch, Outputs
from elman_server.runner.model import Array, StepModel

_FIRST_CAPACITY = 64


class OnnxRunner:
    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._spec = model.spec
        self._initial = [state.initial_value() for state in self._spec.states]
        self._arrays = [
            np.empty((_FIRST_CAPACITY, *value.shape), value.dtype) for value in self._initial
        ]

    def run(self, batch: Batch) -> Outputs:
        slots = np.array(batch.slots)
        self._reserve(max(batch.slots) + 1)
        elements, lengths = self._input(batch)
        outputs, states = self._model.step(
            elements, lengths, self._gather(slots, batch.fresh), batch.outputs
        )
        rows, chunk = elements.shape[:2]
        for name, values in outputs.items():
            if values.shape[:2] != (rows, chunk):
                raise ValueError(
                    f"output {name!r} has shape {list(values.shape)} for {rows} x {chunk} elements"
                )
        for array, state in zip(self._arrays, states, strict=True):
            array[slots] = state
        return outputs

    @property
    def state_nbytes(self) -> int:
        """Bytes reserved for the state arrays."""
        return sum(array.nbytes for array in self._arrays)

    def _gather(self, slots: NDArray[np.int64], fresh: list[int]) -> list[Array]:
        gathered = []
        for array, initial in zip(self._arrays, self._initial, strict=True):
            rows = array.take(slots, axis=0)
            if fresh:
                rows[fresh] = initial
            gathered.append(rows)
        return gathered

    def _input(self, batch: Batch) -> tuple[Array, NDArray[np.int32] | None]:
        """The elements as `[rows, chunk, *shape]`, and the rows' lengths if they differ."""
        rows, shape = len(batch.counts), self._spec.input.shape
        flat = batch.elements[0] if len(batch.elements) == 1 else np.concatenate(batch.elements)
        if len(flat) == rows * batch.chunk:
            return flat.reshape(rows, batch.chunk, *shape), None
        lengths = np.array(batch.counts, np.int32)
        padded = np.zeros((rows, batch.chunk, *shape), flat.dtype)
        padded[np.arange(batch.chunk) < lengths[:, None]] = flat
        return padded, lengths

    def _reserve(self, rows: int) -> None:
        capacity = len(self._arrays[0]) if self._arrays else rows
        if rows <= capacity:
            return
        while capacity < rows:
            capacity *= 2
        # Rows that are never used are never touched, so they take no memory.
        for index, array in enumerate(self._arrays):
            grown = np.empty((capacity, *array.shape[1:]), array.dtype)
            grown[: len(array)] = array
            self._arrays[index] = grown
