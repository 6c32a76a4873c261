"""The runner on ONNX Runtime: keeps the sessions' states and step contexts, one row for each slot.

A `States` object decides where the rows are: on the host or on a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from elman_server.engine.jobs.batch import Batch, Outputs
from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.sessions.snapshot import Tensors
from elman_server.runner.bound import Array, BoundStep, HostMemory, Memory
from elman_server.runner.devicestates import DeviceStates
from elman_server.runner.hoststates import HostStates
from elman_server.runner.model import StepModel
from elman_server.runner.rowarray import Index
from elman_server.runner.runtime import CPU

_FIRST_CAPACITY = 64
_MOST_SHAPES = 512
"""Shapes of steps that stay bound. Each takes about 6 KiB, and some 50 microseconds to bind."""


class Carrier(Protocol):
    """Copies rows to and from a step with a fixed number of rows."""

    def take(self, slots: Index, before: Index) -> None:
        """Copies the contexts of `slots` and the states of `before` to the step's inputs."""

    def put(self, slots: Index) -> None:
        """Copies the new states from the step's outputs into `slots`."""


class States(Protocol):
    """Rows of states and contexts. The last row belongs to no slot: it is the initial state."""

    @property
    def memory(self) -> Memory:
        """Memory of a step's inputs and outputs."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""

    @property
    def capacity(self) -> int:
        """Rows with room, including the last row."""

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows. Earlier carriers become invalid.

        If `grow` raises, for example for lack of memory, nothing has changed.
        """

    def write(self, slots: Index, rows: Sequence[Array]) -> None:
        """Writes rows, `[len(slots), *shape]` of each tensor: the spec's `states`, then its
        `step_contexts`."""

    def read(self, slots: Index) -> Tensors:
        """Returns rows in the format of `write`."""

    def carrier(self, rows: int) -> Carrier: ...


class OnnxRunner:
    def __init__(
        self, model: StepModel, *, begins_together: bool = False, states: States | None = None
    ) -> None:
        """`begins_together`: whether the initial-state network gives a row the same result, to the
        bit, alone and together with other rows. `states`: rows to use; `None`: new rows on the
        model's device."""
        self._model = model
        self._begins_together = begins_together
        self._spec = model.spec
        self._host = HostMemory()
        self._states = states or _states(model, self._host)
        self._steps: dict[tuple[int, int, frozenset[str]], _Step] = {}

    def has_room(self, slots: Sequence[int] | Index) -> bool:
        return _rows(np.asarray(slots)) <= self._states.capacity

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        contexts = {
            context.name: np.stack([given[context.name] for given in job.contexts])
            for context in self._spec.contexts
        }
        if self._begins_together:
            states = self._model.begin(contexts, interrupt)
        else:
            states = self._initialize_one_by_one(contexts, len(job.slots), interrupt)
        slots = np.asarray(job.slots)
        self._reserve(slots)
        kept = [contexts[context.name] for context in self._spec.step_contexts]
        self._states.write(slots, [*states, *kept])

    def restore(self, job: RestoreJob) -> None:
        slots = np.asarray(job.slots)
        self._reserve(slots)
        self._states.write(slots, job.tensors)

    def capture(self, job: CaptureJob) -> Tensors:
        slots = np.asarray(job.slots)
        self._reserve(slots)
        return self._states.read(slots)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        slots = np.asarray(batch.slots)
        self._reserve(slots)
        step = self._step(len(slots), batch.chunk, batch.outputs)
        step.bound.fill(batch.elements, batch.counts)
        before = slots
        if batch.fresh:
            before = slots.copy()
            before[batch.fresh] = self._states.capacity - 1
        step.carrier.take(slots, before)
        outputs = step.bound.run(interrupt)
        step.carrier.put(slots)
        return outputs

    @property
    def state_nbytes(self) -> int:
        """Bytes reserved for the rows."""
        return self._states.nbytes

    def _initialize_one_by_one(
        self, contexts: dict[str, Array], rows: int, interrupt: Interrupt | None
    ) -> list[Array]:
        states = [
            self._model.begin(
                {name: value[row : row + 1] for name, value in contexts.items()}, interrupt
            )
            for row in range(rows)
        ]
        return [np.concatenate(parts) for parts in zip(*states, strict=True)]

    def _step(self, rows: int, chunk: int, outputs: frozenset[str]) -> "_Step":
        key = rows, chunk, outputs
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) == _MOST_SHAPES:
                del self._steps[next(iter(self._steps))]
            bound = self._model.bind(
                rows, chunk, outputs, host=self._host, memory=self._states.memory
            )
            step = self._steps[key] = _Step(bound, self._states.carrier(rows))
        return step

    def _reserve(self, slots: Index) -> None:
        rows = _rows(slots)
        capacity = self._states.capacity
        if rows <= capacity:
            return
        while capacity < rows:
            capacity *= 2
        self._states.grow(capacity)
        self._steps.clear()


@dataclass(frozen=True, slots=True)
class _Step:
    bound: BoundStep
    carrier: Carrier


def _rows(slots: Index) -> int:
    """Returns how many rows the slots need, including the last row for the initial state."""
    return int(slots.item(slots.argmax())) + 2


def _states(model: StepModel, host: HostMemory) -> States:
    if model.device == CPU:
        return HostStates(model.spec, memory=host, capacity=_FIRST_CAPACITY)
    return DeviceStates(model.spec, device=model.device, capacity=_FIRST_CAPACITY)
