"""A runner, a selection and an observer in plain Python, for tests of the engine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Elements
from elman_server.engine.jobs.batch import Batch
from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.job import Job
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.outboxes.delivery import Outputs
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.sessions.initial_state import Contexts
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Tensors
from elman_server.engine.sessions.state_pool import Slot
from elman_server.engine.sessions.table import SessionTable
from elman_server.engine.stats import StepStats
from elman_server.model.selection import EncodedValues

MODULUS = 2**31 - 1
INITIAL = 5
PADDING = -1


def ids(*numbers: int) -> NDArray[np.int64]:
    """Elements of a scalar input."""
    return np.array(numbers, np.int64)


def seed(number: int) -> Contexts:
    """Contexts of a session that begins with that number as its state."""
    return {"seed": np.array(number, np.int64)}


def push(scheduler: Scheduler, session: Session, elements: Elements, now: float) -> None:
    """Queues elements of one session."""
    scheduler.push([session], [len(elements)], elements, now)


def predicted(elements: Sequence[int], initial: int = INITIAL) -> list[int]:
    """What `ArithmeticRunner` answers to a session's elements, from the first on.

    Every element changes all that follow, in a way that depends on its place, so that a lost,
    doubled, reordered or foreign one shows in each later prediction.
    """
    state, answers = initial, []
    for element in elements:
        state = (state * 3 + element) % MODULUS
        answers.append(state)
    return answers


Slots = Sequence[int] | NDArray[np.intp]


class ArithmeticRunner:
    """Outputs `sum`, the state after each element, and `negated`."""

    def __init__(self) -> None:
        self._states: dict[int, int] = {}

    def has_room(self, slots: Slots) -> bool:
        return True

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        for slot, contexts in zip(job.slots, job.contexts, strict=True):
            self._states[slot] = int(contexts["seed"])

    def restore(self, job: RestoreJob) -> None:
        (states,) = job.tensors
        for slot, state in zip(job.slots, numbers(states), strict=True):
            self._states[slot] = state

    def capture(self, job: CaptureJob) -> Tensors:
        return (ids(*(self._states.get(slot, 0) for slot in job.slots)),)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        slots, counts = numbers(batch.slots), numbers(batch.counts)
        assert len(set(slots)) == len(slots), "a slot is in the step twice"
        flat = batch.elements.tolist()
        assert len(flat) == sum(counts)
        answers = np.full((len(slots), batch.chunk), PADDING, np.int64)
        start = 0
        for row, (slot, count) in enumerate(zip(slots, counts, strict=True)):
            state = INITIAL if row in batch.fresh else self._states[slot]
            for step, element in enumerate(flat[start : start + count]):
                state = (state * 3 + element) % MODULUS
                answers[row, step] = state
            self._states[slot] = state
            start += count
        outputs = {"sum": answers, "negated": -answers}
        return {name: outputs[name] for name in batch.outputs}


@dataclass(frozen=True, eq=False)
class FakeSelection:
    """Whole outputs, as they are."""

    names: frozenset[str] = frozenset({"sum"})
    element_nbytes: int = 8

    def encode(self, outputs: Outputs) -> list[EncodedValues]:
        return [EncodedValues(values=outputs[name].tobytes()) for name in sorted(self.names)]


def slots_of(work: Job) -> list[int]:
    """The slots in a job."""
    return [int(slot) for slot in work.slots]


def complete(scheduler: Scheduler, batch: Batch, now: float = 0.0) -> list[Session]:
    """Ends a step without its predictions. Returns the sessions ended by the step."""
    return scheduler.lifecycle.complete(batch.slots, batch.counts, now)


def slots(sessions: Iterable[Session]) -> list[int]:
    return [session.slot.index for session in sessions]


def session_in(
    table: SessionTable, box: Outbox, selection: FakeSelection, number: int = 0
) -> Session:
    """A session whose slot has its number, without a scheduler."""
    session = Session(
        id="",
        number=number,
        receiver=box.receiver(selection),
        slot=Slot(number, 0),
        table=table,
    )
    table.add(number, number=number, receiver=session.receiver)
    table.begin(number)
    return session


@dataclass
class Recorder:
    """An observer that keeps what it is told."""

    opened: int = 0
    ended: list[EndReason] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    steps: list[StepStats] = field(default_factory=list)

    def session_opened(self) -> None:
        self.opened += 1

    def session_ended(self, reason: EndReason) -> None:
        self.ended.append(reason)

    def session_rejected(self, reason: str) -> None:
        self.rejected.append(reason)

    def stepped(self, stats: StepStats) -> None:
        self.steps.append(stats)


def numbers(array: NDArray[Any]) -> list[int]:
    result: list[int] = array.tolist()
    return result
