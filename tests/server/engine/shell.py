"""Runners that wait or fail, and callers that read, for tests of the asyncio shell."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from elman_server.engine.admission import Admission
from elman_server.engine.engine import Engine
from elman_server.engine.jobs.batch import Batch
from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.job import Job
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.outboxes.delivery import Outputs
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Cadence, Snapshot, Tensors
from tests.server.fakes import ArithmeticRunner, FakeSelection, Recorder, Slots, ids, numbers

INLINE = 0.0
ON_THE_THREAD = 1.0
SELECTION = FakeSelection()
STOPPING = Ending(reason=EndReason.SHUTDOWN, message="stopping")


class GatedRunner:
    """Each step waits until the test lets it go on, then fails if it was told to."""

    def __init__(self) -> None:
        self._runner = ArithmeticRunner()
        self._go = threading.Semaphore(0)
        self._started = asyncio.Queue[Job]()
        self._loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        self.interrupt: Interrupt | None = None
        """Of the last step."""

    def has_room(self, slots: Slots) -> bool:
        return True

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        self._wait(job)
        self._runner.initialize(job)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        self.interrupt = interrupt
        self._wait(batch)
        return self._runner.run(batch)

    def restore(self, job: RestoreJob) -> None:
        self._wait(job)
        self._runner.restore(job)

    def capture(self, job: CaptureJob) -> Tensors:
        self._wait(job)
        return self._runner.capture(job)

    def _wait(self, work: Job) -> None:
        self._loop.call_soon_threadsafe(self._started.put_nowait, work)
        assert self._go.acquire(timeout=30)
        if self.error is not None:
            raise self.error

    async def started(self) -> Job:
        """The work that runs now."""
        return await asyncio.wait_for(self._started.get(), 30)

    def go_on(self) -> None:
        self._go.release()


class FailingRunner:
    """Fails if a batch holds a certain element, or if a session begins with that number."""

    def __init__(self, element: int) -> None:
        self._runner = ArithmeticRunner()
        self._element = element

    def has_room(self, slots: Slots) -> bool:
        return True

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        if any(contexts["seed"] == self._element for contexts in job.contexts):
            raise RuntimeError("out of luck")
        self._runner.initialize(job)

    def restore(self, job: RestoreJob) -> None:
        self._runner.restore(job)

    def capture(self, job: CaptureJob) -> Tensors:
        return self._runner.capture(job)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        if (batch.elements == self._element).any():
            raise RuntimeError("out of luck")
        return self._runner.run(batch)


class SlowRunner:
    """Does not come to the end of a batch that holds a certain element: it waits to be interrupted
    or, where it is deaf to that, for the test."""

    def __init__(self, element: int, *, deaf: bool = False) -> None:
        self._runner = ArithmeticRunner()
        self._element = element
        self._deaf = deaf
        self.go_on = threading.Event()
        self.ran_on: set[int] = set()
        """The threads that ran something."""
        self.interrupted = 0

    def has_room(self, slots: Slots) -> bool:
        return True

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        self._runner.initialize(job)

    def restore(self, job: RestoreJob) -> None:
        self._runner.restore(job)

    def capture(self, job: CaptureJob) -> Tensors:
        return self._runner.capture(job)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        self.ran_on.add(threading.get_ident())
        if (batch.elements == self._element).any():
            if self._deaf:
                assert self.go_on.wait(timeout=30)
            else:
                assert interrupt is not None, "a slow batch on the event loop"
                interrupted = threading.Event()
                interrupt.arm(interrupted.set)
                assert interrupted.wait(timeout=30)
                self.interrupted += 1
                raise RuntimeError("terminated")
        return self._runner.run(batch)


@dataclass
class Caller:
    """Somebody with an outbox, who reads it."""

    engine: Engine
    limit: float = float("inf")
    answers: dict[Session, list[int]] = field(default_factory=dict)
    endings: dict[Session, Ending] = field(default_factory=dict)
    snapshots: dict[Session, list[Snapshot]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.outbox = Outbox(limit=self.limit, notify=self._changed.set)

    def open(
        self, initial_state: InitialState | None = None, cadence: Cadence | None = None
    ) -> Session:
        session = self.engine.open(
            OpenRequest(
                number=len(self.answers),
                outbox=self.outbox,
                selection=SELECTION,
                initial_state=initial_state,
                cadence=cadence,
            )
        )
        self.answers[session] = []
        return session

    def push(self, session: Session, *elements: int) -> None:
        self.engine.push([session], [len(elements)], ids(*elements), self.engine.now())

    def collect(self) -> None:
        self._changed.clear()
        mail = self.engine.collect(self.outbox)
        for delivery in mail.deliveries:
            found = numbers(delivery.outputs["sum"])
            sessions = list(self.answers)
            for number, first, count in zip(
                delivery.numbers, delivery.first_positions, delivery.counts, strict=True
            ):
                answers = self.answers[sessions[number]]
                assert first == len(answers)
                answers += found[:count]
                del found[:count]
        sessions = list(self.answers)
        for taken in mail.snapshots:
            self.snapshots.setdefault(sessions[taken.number], []).append(taken.snapshot)
        for ended in mail.ended:
            session = sessions[ended.number]
            assert session not in self.endings, "a session ended twice"
            self.endings[session] = ended.ending

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while True:
                self.collect()
                if holds():
                    return
                await self._changed.wait()

    async def answered(self, session: Session, count: int) -> None:
        await self.until(lambda: len(self.answers[session]) >= count)

    async def all_ended(self) -> None:
        await self.until(lambda: self.endings.keys() == self.answers.keys())


@dataclass
class Served:
    engine: Engine
    admission: Admission
    recorder: Recorder


Serve = Callable[..., Served]

both = pytest.mark.parametrize(
    "step_seconds", [INLINE, ON_THE_THREAD], ids=["inline", "on the thread"]
)
