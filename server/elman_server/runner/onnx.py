"""The runner on ONNX Runtime: it owns the state arrays, one for each state tensor, a row a slot.

What each step takes of the sessions' contexts stands beside the state, in arrays of the same kind.
"""

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.batch import Batch, Outputs
from elman_server.engine.beginning import Beginning
from elman_server.runner.model import Array, StepModel

_FIRST_CAPACITY = 64


class OnnxRunner:
    def __init__(self, model: StepModel, *, begins_together: bool = False) -> None:
        """`begins_together`: whether the initial-state network gives each of several rows, to the
        bit, what it gives it alone."""
        self._model = model
        self._begins_together = begins_together
        self._spec = model.spec
        self._initial = [state.initial_value() for state in self._spec.states]
        self._capacity = _FIRST_CAPACITY
        self._arrays = [
            np.empty((self._capacity, *value.shape), value.dtype) for value in self._initial
        ]
        self._contexts = [
            np.empty((self._capacity, *context.shape), context.dtype)
            for context in self._spec.step_contexts
        ]

    def begin(self, beginning: Beginning) -> None:
        contexts = {
            context.name: np.stack([given[context.name] for given in beginning.contexts])
            for context in self._spec.contexts
        }
        if self._begins_together:
            states = self._model.begin(contexts)
        else:
            states = self._begin_one_by_one(contexts, len(beginning.slots))
        slots = np.array(beginning.slots)
        self._reserve(max(beginning.slots) + 1)
        for array, state in zip(self._arrays, states, strict=True):
            array[slots] = state
        for array, context in zip(self._contexts, self._spec.step_contexts, strict=True):
            array[slots] = contexts[context.name]

    def run(self, batch: Batch) -> Outputs:
        slots = np.array(batch.slots)
        self._reserve(max(batch.slots) + 1)
        elements, lengths = self._input(batch)
        before = self._gather(slots, batch.fresh)
        contexts = [array.take(slots, axis=0) for array in self._contexts]
        outputs, states = self._model.step(elements, lengths, before, batch.outputs, contexts)
        rows, chunk = elements.shape[:2]
        for name, values in outputs.items():
            if values.shape[:2] != (rows, chunk):
                raise ValueError(
                    f"output {name!r} has shape {list(values.shape)} for {rows} x {chunk} elements"
                )
        # All of them are looked at before any is changed.
        for old, new in zip(before, states, strict=True):
            if old.shape != new.shape:
                raise ValueError(
                    f"a state of shape {list(old.shape)} comes back in shape {list(new.shape)}"
                )
        for array, state in zip(self._arrays, states, strict=True):
            array[slots] = state
        return outputs

    @property
    def state_nbytes(self) -> int:
        """Bytes reserved for the arrays."""
        return sum(array.nbytes for array in (*self._arrays, *self._contexts))

    def _begin_one_by_one(self, contexts: dict[str, Array], rows: int) -> list[Array]:
        states = [
            self._model.begin({name: value[row : row + 1] for name, value in contexts.items()})
            for row in range(rows)
        ]
        return [np.concatenate(parts) for parts in zip(*states, strict=True)]

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
        if rows <= self._capacity:
            return
        while self._capacity < rows:
            self._capacity *= 2
        for arrays in (self._arrays, self._contexts):
            arrays[:] = [self._grown(array) for array in arrays]

    def _grown(self, array: Array) -> Array:
        # Rows that are never used are never touched, so they take no memory.
        grown = np.empty((self._capacity, *array.shape[1:]), array.dtype)
        grown[: len(array)] = array
        return grown
