"""The runner on ONNX Runtime: it owns the state arrays, one for each state tensor, a row a slot.

What each step takes of the sessions' contexts stands beside the state, in arrays of the same kind.
"""

from dataclasses import dataclass

import numpy as np

from elman_server.engine.batch import Batch, Outputs
from elman_server.engine.beginning import Beginning
from elman_server.runner.bound import Array, BoundStep, HostMemory, laid_out
from elman_server.runner.model import StepModel
from elman_server.runner.rowarray import Index, RowArray

_FIRST_CAPACITY = 64
_MOST_SHAPES = 1024
"""How many shapes of steps stay bound; each takes a few kilobytes."""


class OnnxRunner:
    def __init__(self, model: StepModel, *, begins_together: bool = False) -> None:
        """`begins_together`: whether the initial-state network gives each of several rows, to the
        bit, what it gives it alone."""
        self._model = model
        self._begins_together = begins_together
        self._spec = model.spec
        self._capacity = _FIRST_CAPACITY
        self._memory = HostMemory()
        self._states = [
            RowArray(state.initial_value(), axis=state.batch_axis, capacity=self._capacity)
            for state in self._spec.states
        ]
        self._contexts = [
            RowArray(np.zeros(context.shape, context.dtype), axis=0, capacity=self._capacity)
            for context in self._spec.step_contexts
        ]
        self._steps: dict[tuple[int, int, frozenset[str]], _Step] = {}

    def begin(self, beginning: Beginning) -> None:
        contexts = {
            context.name: np.stack([given[context.name] for given in beginning.contexts])
            for context in self._spec.contexts
        }
        if self._begins_together:
            states = self._model.begin(contexts)
        else:
            states = self._begin_one_by_one(contexts, len(beginning.slots))
        slots = np.asarray(beginning.slots)
        self._reserve(slots)
        for array, state in zip(self._states, states, strict=True):
            array.put_rows(slots, state)
        for array, context in zip(self._contexts, self._spec.step_contexts, strict=True):
            array.put_rows(slots, contexts[context.name])

    def run(self, batch: Batch) -> Outputs:
        slots = np.asarray(batch.slots)
        self._reserve(slots)
        step = self._step(len(slots), batch.chunk, batch.outputs)
        step.bound.fill(batch.elements, batch.counts)
        before = slots
        if batch.fresh:
            before = slots.copy()
            before[batch.fresh] = self._capacity - 1
        for array, items, _ in step.states:
            array.take(before, items)
        for array, items in step.contexts:
            array.take(slots, items)
        outputs = step.bound.run()
        for array, _, items in step.states:
            array.put(slots, items)
        return outputs

    @property
    def state_nbytes(self) -> int:
        """Bytes reserved for the arrays."""
        return sum(array.nbytes for array in (*self._states, *self._contexts))

    def _begin_one_by_one(self, contexts: dict[str, Array], rows: int) -> list[Array]:
        states = [
            self._model.begin({name: value[row : row + 1] for name, value in contexts.items()})
            for row in range(rows)
        ]
        return [np.concatenate(parts) for parts in zip(*states, strict=True)]

    def _step(self, rows: int, chunk: int, outputs: frozenset[str]) -> "_Step":
        key = rows, chunk, outputs
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) == _MOST_SHAPES:
                self._steps.clear()
            step = self._steps[key] = self._bind(rows, chunk, outputs)
        return step

    def _bind(self, rows: int, chunk: int, outputs: frozenset[str]) -> "_Step":
        bound = self._model.bind(rows, chunk, outputs, host=self._memory, memory=self._memory)
        states, contexts = [], []
        for state, array in zip(self._spec.states, self._states, strict=True):
            shape = laid_out(state, rows)
            before = self._memory.view(f"input {state.input}", shape, state.dtype)
            after = self._memory.view(f"output {state.output}", shape, state.dtype)
            states.append((array, array.items(before), array.items(after)))
        for context, array in zip(self._spec.step_contexts, self._contexts, strict=True):
            shape = (rows, *context.shape)
            tensor = self._memory.view(f"input {context.input}", shape, context.dtype)
            contexts.append((array, array.items(tensor)))
        return _Step(bound, states, contexts)

    def _reserve(self, slots: Index) -> None:
        rows = slots.item(slots.argmax()) + 2  # the last is the initial one
        if rows <= self._capacity:
            return
        while self._capacity < rows:
            self._capacity *= 2
        for array in (*self._states, *self._contexts):
            array.grow(self._capacity)


@dataclass(frozen=True, slots=True)
class _Step:
    """A bound step, and where the rows of which arrays are copied to and from."""

    bound: BoundStep
    states: list[tuple[RowArray, Array, Array]]
    """Before and after the step."""
    contexts: list[tuple[RowArray, Array]]
