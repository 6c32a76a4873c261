"""States and contexts of all slots in host memory."""

import sys
from collections.abc import Sequence

import numpy as np

from elman_server.model.spec import ModelSpec
from elman_server.runner.bound import Array, HostMemory, laid_out
from elman_server.runner.rowarray import Index, RowArray


class HostStates:
    def __init__(self, spec: ModelSpec, *, memory: HostMemory, capacity: int) -> None:
        self.memory = memory
        self.capacity = capacity
        self._spec = spec
        self._states = [
            RowArray(state.initial_value(), axis=state.batch_axis, capacity=capacity)
            for state in spec.states
        ]
        self._contexts = [
            RowArray(np.zeros(context.shape, context.dtype), axis=0, capacity=capacity)
            for context in spec.step_contexts
        ]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self._states, *self._contexts))

    def grow(self, capacity: int) -> None:
        # All or nothing: if memory for one array is missing, no array may grow.
        states = [array.grown(capacity) for array in self._states]
        contexts = [array.grown(capacity) for array in self._contexts]
        self._states, self._contexts, self.capacity = states, contexts, capacity

    def write(self, slots: Index, rows: Sequence[Array]) -> None:
        for array, own in zip((*self._states, *self._contexts), rows, strict=True):
            array.put_rows(slots, own)

    def read(self, slots: Index) -> tuple[Array, ...]:
        return tuple(array.rows(slots) for array in (*self._states, *self._contexts))

    def carrier(self, rows: int) -> "Carrier":
        spec, view = self._spec, self.memory.view
        states, contexts = [], []
        for state, array in zip(spec.states, self._states, strict=True):
            shape = laid_out(state, rows)
            before = array.items(view(f"input {state.input}", shape, state.dtype))
            after = array.items(view(f"output {state.output}", shape, state.dtype))
            states.append((array, before, after))
        for context, array in zip(spec.step_contexts, self._contexts, strict=True):
            shape = (rows, *context.shape)
            tensor = view(f"input {context.input}", shape, context.dtype)
            contexts.append((array, array.items(tensor)))
        return Carrier(states, contexts)


class Carrier:
    """Copies rows to a step's inputs, and back from the step's outputs."""

    def __init__(
        self,
        states: list[tuple[RowArray, Array, Array]],
        contexts: list[tuple[RowArray, Array]],
    ) -> None:
        """`states`: each array with the items before and after the step."""
        self._states = states
        self._contexts = contexts
        arrays = [array for array, *_ in states] + [array for array, _ in contexts]
        self._capacity = min((array.capacity for array in arrays), default=sys.maxsize)

    def take(self, slots: Index, before: Index) -> None:
        # Checked once for all arrays, because `RowArray.take` checks no bounds. Each entry of
        # `before` is the entry of `slots` or the last row.
        highest = before.item(before.argmax())
        if highest >= self._capacity:
            raise IndexError(f"row {highest} of {self._capacity}")
        for array, items, _ in self._states:
            array.take(before, items)
        for array, items in self._contexts:
            array.take(slots, items)

    def put(self, slots: Index) -> None:
        for array, _, items in self._states:
            array.put(slots, items)
