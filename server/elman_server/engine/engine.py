"""The engine of one model: the asyncio shell around the scheduler.

All of it runs on one event loop, but for the steps that are long enough to be worth a thread. It
wakes on events only: an element that finds the engine idle starts a step in the loop's next turn,
and what arrives while a step runs forms the next.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from elman_server.admission import Admission
from elman_server.engine.batch import Batch, Selection, deliveries
from elman_server.engine.outbox import Mail, Outbox
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.session import (
    CANCELLED,
    FINISHED,
    Elements,
    Ending,
    EndReason,
    Session,
)
from elman_server.engine.stats import Observer, StepStats
from elman_server.engine.worker import StepResult, Worker
from elman_server.errors import Overloaded, ShuttingDown
from elman_server.runner import Runner

_INLINE_SECONDS = 200e-6
"""A step shorter than this runs on the event loop: handing it to a thread and back costs about as
much (0.3 ms on two cores)."""

_STEP_FAILED = Ending(
    reason=EndReason.STEP_FAILED,
    message="the model failed in a step; the session's state is lost",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """Whom a step concerned."""

    outboxes: set[Outbox]
    ended: list[Session]
    answered: int
    """Elements whose predictions go to somebody."""


class Engine:
    """Serves one model. Not thread-safe: everything is called on the loop that called `start`."""

    def __init__(
        self,
        *,
        name: str,
        scheduler: Scheduler,
        runner: Runner,
        step_seconds: Callable[[int, int], float],
        admission: Admission,
        observer: Observer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`step_seconds(rows, chunk)` estimates how long a step takes."""
        self._scheduler = scheduler
        self._runner = runner
        self._step_seconds = step_seconds
        self._admission = admission
        self._observer = observer
        self._clock = clock
        self._worker = Worker(name=f"elman-{name}", run=self._run, done=self._worked)
        self._log = structlog.get_logger("elman.session").bind(model=name)
        self._turn_due = False
        self._working = False
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker.start()

    async def stop(self) -> None:
        """Waits for the step that runs and ends the compute thread. Sessions must have ended."""
        await self._worker.stop()

    @property
    def sessions(self) -> int:
        return len(self._scheduler.sessions)

    @property
    def pending(self) -> int:
        """Elements that wait for a step."""
        return self._scheduler.pending

    @property
    def backlog(self) -> int:
        """Those of them that do not wait for their caller to read what there is already."""
        return self._scheduler.backlog

    @property
    def slots(self) -> int:
        """Rows of state in use."""
        return self._scheduler.pool.used

    def open(
        self, *, number: int, outbox: Outbox, selection: Selection, elements: int = 0
    ) -> Session:
        """A new session in the initial state, which brings `elements` along at once.

        Raises `Overloaded` or `ShuttingDown`.
        """
        try:
            self._admission.admit(elements)
        except (Overloaded, ShuttingDown) as error:
            self._observer.session_rejected(error.reason)
            raise
        session = self._scheduler.add(
            id=secrets.token_hex(8), number=number, outbox=outbox, selection=selection
        )
        self._idle.clear()
        self._observer.session_opened()
        outbox.opened(session)
        outbox.notify()
        return session

    def push(self, session: Session, elements: Elements, arrival: float) -> None:
        """Queues elements, `[n, *shape]`, that arrived at `arrival` on the engine's clock."""
        self._scheduler.push(session, elements, arrival)
        self._wake()

    def close(self, session: Session, ending: Ending = FINISHED) -> None:
        """Ends a session after its queue is answered."""
        if session.ended is None and self._scheduler.close(session, ending):
            self._tell_end(session)
            session.outbox.notify()

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session now."""
        if session.ended is None:
            self._scheduler.abort(session, ending)
            self._tell_end(session)
            session.outbox.notify()

    def collect(self, outbox: Outbox) -> Mail:
        """Empties an outbox and lets its sessions go on."""
        mail = outbox.take()
        if outbox.held:
            self._scheduler.release(outbox)
            self._wake()
        return mail

    async def drain(self, ending: Ending, *, grace: float) -> None:
        """Ends every session: after its queue is answered, or when `grace` seconds are over."""
        for session in list(self._scheduler.sessions):
            self.close(session, ending)
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            for session in list(self._scheduler.sessions):
                self.abort(session, ending)

    def now(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    def _wake(self) -> None:
        if not self._turn_due and not self._working:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._working:
            return
        batch = self._scheduler.schedule()
        self._admission.relieve()
        if batch is None:
            return
        if self._step_seconds(len(batch.sessions), batch.chunk) < _INLINE_SECONDS:
            result = self._run(batch)
            self._tell(result, self._settle(result))
            if self._scheduler.ready:
                self._wake()
        else:
            self._working = True
            self._worker.submit(batch)

    def _worked(self, result: StepResult) -> None:
        self._working = False
        settled = self._settle(result)
        # The next step starts first: telling the callers of this one can go on beside it.
        self._turn()
        self._tell(result, settled)

    def _run(self, batch: Batch) -> StepResult:
        start = self._clock()
        try:
            outputs = self._runner.run(batch)
        except Exception as error:  # whatever the runtime raises ends this batch, not the engine
            return StepResult(batch=batch, outputs=error, start=start, end=self._clock())
        return StepResult(batch=batch, outputs=outputs, start=start, end=self._clock())

    def _settle(self, result: StepResult) -> _Settled:
        """Puts predictions into the outboxes and counts their elements as answered."""
        batch = result.batch
        if isinstance(result.outputs, Exception):
            self._log.error("step failed", error=str(result.outputs), sessions=len(batch.sessions))
            failed = self._scheduler.fail(batch, _STEP_FAILED)
            return _Settled(
                outboxes={session.outbox for session in failed}, ended=failed, answered=0
            )
        positions = [session.position for session in batch.sessions]
        sorted_out = list(deliveries(batch, positions, result.outputs))
        for outbox, delivery in sorted_out:
            outbox.deliver(delivery)
        return _Settled(
            outboxes={outbox for outbox, _ in sorted_out},
            ended=self._scheduler.complete(batch),
            answered=sum(sum(delivery.counts) for _, delivery in sorted_out),
        )

    def _tell(self, result: StepResult, settled: _Settled) -> None:
        for session in settled.ended:
            self._tell_end(session)
        for outbox in settled.outboxes:
            outbox.notify()
        self._observer.stepped(_stats(result, settled))

    def _tell_end(self, session: Session) -> None:
        ending = session.ended
        assert ending is not None
        self._admission.release()
        session.outbox.ended(session, ending)
        self._observer.session_ended(ending.reason)
        self._log.debug(
            "session ended",
            session=session.id,
            reason=str(ending.reason),
            position=session.position,
        )
        if not self._scheduler.sessions:
            self._idle.set()


def _stats(result: StepResult, settled: _Settled) -> StepStats:
    batch = result.batch
    return StepStats(
        batch_size=len(batch.sessions),
        answered=settled.answered,
        seconds=result.end - result.start,
        queue_delays=batch.arrivals.ages(result.start),
        counts=batch.arrivals.counts,
    )
