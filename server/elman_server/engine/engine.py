"""The engine of one model: the asyncio shell around the scheduler.

The engine runs on one event loop; only long work runs on the compute thread. Events alone wake the
step loop: an element for an idle engine starts a step in the event loop's next turn, and elements
that arrive during a step form the next step.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import structlog

from elman_server.engine.admission import Admission
from elman_server.engine.arrays import Elements, Numbers, Rows
from elman_server.engine.executor import Executor
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.job import too_long
from elman_server.engine.jobs.runner import Runner
from elman_server.engine.jobs.settled import Settled
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.parking import Parking
from elman_server.engine.queues.element_queues import ENTRY_NBYTES
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import CANCELLED, FINISHED, Ending, EndReason
from elman_server.engine.sessions.initial_state import InitialState, nbytes
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.session_index import SessionIndex
from elman_server.engine.sessions.snapshot import Keeping, Snapshot
from elman_server.engine.stats import Observer
from elman_server.engine.step_loop import StepLoop
from elman_server.errors import ModelUnavailable, Overloaded, ShuttingDown
from elman_server.process.cputime import cpu_seconds

_PARKED = Ending(
    reason=EndReason.PARKED, message="nothing was pushed for long; the ticket brings it back"
)
_ENDED_PER_TURN = 64
"""Sessions ended before other tasks get a turn."""
_CUT_SECONDS = 1.0
"""Seconds of waiting for in-flight work after a drain's grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    name: str
    """The model's name, for the log and the compute thread."""
    step_timeout: float = inf
    """Seconds after which a step is interrupted. The sessions that caused the delay end."""
    park_after: float = inf
    """Idle seconds after which a parkable session is parked."""
    element_nbytes: int = 8
    """Bytes of an element."""


class Engine:
    """Serves one model. Not thread-safe: call every method on the event loop of `start`."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        scheduler: Scheduler,
        runner: Runner,
        estimates: Estimates,
        admission: Admission,
        observer: Observer,
        stuck: Callable[[bool], None] = lambda stuck: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """If a step does not stop on the interrupt at its time limit, the engine ends all sessions,
        opens no more, and calls `stuck(True)`. If the step stops later, the engine calls
        `stuck(False)`, and sessions can be opened again.
        """
        self._state_nbytes = estimates.state_nbytes
        self.element_nbytes = settings.element_nbytes + ENTRY_NBYTES
        """Bytes of an element waiting for a step."""
        self.untaken = 0
        """Elements of partly pushed frames: already waiting for a step, but not in a queue yet."""
        self.opened = 0
        """Sessions opened since the start."""
        self.pinned = False
        """Whether the engine keeps idle sessions and old connections."""
        self._scheduler = scheduler
        self._step_timeout = settings.step_timeout
        self._on_stuck = stuck
        self._aborts: asyncio.Task[None] | None = None
        self._admission = admission
        self._observer = observer
        self._parking = Parking(
            after=settings.park_after,
            longest_idle=lambda: scheduler.table.longest_idle,
            clock=clock,
        )
        self._clock = clock
        self._step_loop = StepLoop(
            name=settings.name,
            step_timeout=settings.step_timeout,
            scheduler=scheduler,
            executor=Executor(
                runner=runner,
                estimates=estimates,
                timeout=settings.step_timeout,
                clock=clock,
                cpu_clock=cpu_seconds,
            ),
            admission=admission,
            notify=self._notify,
            report_stuck=self._report_stuck,
            clock=clock,
        )
        self._log = structlog.get_logger("elman.session").bind(model=settings.name)
        self._nonfinite_logged = False
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_loop.start()

    async def stop(self) -> None:
        """Waits for the running step and ends the compute thread. All sessions must have ended."""
        self._parking.stop()
        await self._step_loop.stop()

    async def idle(self) -> None:
        """Returns when no session is open."""
        await self._idle.wait()

    @property
    def sessions(self) -> int:
        return len(self._scheduler.sessions)

    @property
    def pending(self) -> int:
        """Elements waiting for a step."""
        return self._scheduler.pending

    @property
    def backlog(self) -> int:
        """Elements waiting for a step, without the elements held for a caller that does not
        read."""
        return self._scheduler.backlog

    @property
    def context_nbytes(self) -> int:
        """Bytes of contexts and snapshots of sessions without a ready state."""
        return self._scheduler.context_nbytes

    @property
    def slots(self) -> int:
        """Rows of state in use."""
        return self._scheduler.slots

    def open(self, request: OpenRequest) -> Session:
        """Returns a new session. Raises `Overloaded`, `ShuttingDown` or `ModelUnavailable`."""
        initial_state, awaited = request.initial_state, request.awaited
        if self._step_loop.stuck:
            raise ModelUnavailable("the model does not come to the end of a step")
        try:
            self._admission.admit(request.elements, nbytes(initial_state or {}), self._state_nbytes)
        except (Overloaded, ShuttingDown) as error:
            self._observer.session_rejected(error.reason)
            raise
        now = self._clock() if request.cadence or request.parkable else 0.0
        session = self._scheduler.add(request, id=secrets.token_hex(8), now=now)
        if request.parkable:
            self._parking.schedule(self._park)
        if initial_state is not None and not awaited:
            self._step_loop.wake()
        self._idle.clear()
        self.opened += 1
        self._observer.session_opened()
        if not awaited:
            session.outbox.opened(session.opened_event)
            session.outbox.notify()
        return session

    def found(self, session: Session, initial_state: InitialState | None, keeping: Keeping) -> None:
        """Supplies the initial state of an awaited session; `None`: the model's initial state. From
        now on `keeping` gets the session's snapshots. The caller gets the first snapshot together
        with the news that the session is open."""
        session.keeping = keeping
        self._scheduler.found(session, initial_state, self._clock())
        session.outbox.opened(session.opened_event)
        if initial_state is None or isinstance(initial_state, Snapshot):
            snapshot = initial_state or Snapshot(position=0, tensors=None)
            session.outbox.snapshot(session.snapshot_event(snapshot))
        else:
            self._scheduler.snapshot(session)
        self._step_loop.wake()
        session.outbox.notify()

    def push(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, arrival: float
    ) -> int:
        """Queues elements `[sum(counts), *shape]`: `counts[i]` for `sessions[i]`, in order.
        `arrival`: seconds on the engine's clock.

        Returns the largest number of unanswered elements of any of the sessions.
        """
        most = self._scheduler.push(sessions, counts, elements, arrival)
        self._step_loop.wake()
        return most

    def push_rows(
        self, receiver: Receiver, rows: Rows, counts: Numbers, elements: Elements, arrival: float
    ) -> int:
        """Queues elements as `push` does, for rows and a receiver from `SessionIndex.find`."""
        most = self._scheduler.push_rows(receiver, rows, counts, elements, arrival)
        self._step_loop.wake()
        return most

    def session_index(self, outbox: Outbox) -> SessionIndex:
        """Returns a new index of one caller's sessions."""
        return SessionIndex(self._scheduler.table, outbox)

    def close(self, session: Session, ending: Ending = FINISHED) -> None:
        """Ends a session after its queue is answered."""
        if session.ended is None:
            if self._scheduler.close(session, ending):
                self._session_ended(session)
                session.outbox.notify()
            else:
                self._step_loop.wake()

    def cut(self, session: Session, ending: Ending) -> None:
        """Drops a session's queue and ends the session after in-flight work. A session that is
        already closing because of an error keeps the first ending."""
        if session.ended is None:
            if self._scheduler.cut(session, ending):
                self._session_ended(session)
                session.outbox.notify()
            else:
                self._step_loop.wake()

    def snapshot(self, session: Session) -> None:
        """Puts a session's snapshot into its outbox once all pushed elements are answered."""
        if session.ended is None:
            self._scheduler.snapshot(session)
            self._step_loop.wake()

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session now."""
        if session.ended is None:
            self._scheduler.abort(session, ending)
            self._session_ended(session)
            session.outbox.notify()

    def drop(self, session: Session, ending: Ending) -> None:
        """Ends a session now or, if `keeping` is set, as soon as its last snapshot is taken."""
        if session.keeping is None:
            self.abort(session, ending)
        else:
            self.cut(session, ending)

    def revoke(self, session: Session, ending: Ending) -> None:
        """Ends a session now and withdraws all its unsent predictions and messages. If the session
        has ended already and the caller does not know yet, `ending` replaces the first ending."""
        session.outbox.forget(session.number, ending)
        self.abort(session, ending)

    def collect(self, outbox: Outbox) -> Mail:
        """Empties an outbox and releases its held sessions."""
        mail = outbox.take()
        if self._scheduler.release(outbox):
            self._step_loop.wake()
        return mail

    async def drain(self, ending: Ending, *, grace: float) -> None:
        """Ends every session after its queue is answered. After `grace` seconds the remaining
        sessions lose their queues and end after in-flight work. With a `grace` of 0 all end at
        once."""
        await self._each(partial(self.close, ending=ending))
        if await self._idle_within(grace):
            return
        await self._each(partial(self.cut, ending=ending))
        if grace and await self._idle_within(_CUT_SECONDS):
            return
        await self._each(partial(self.abort, ending=ending.without_snapshot))

    async def _each(self, act: Callable[[Session], None]) -> None:
        """Calls `act` for every session, and lets other tasks run in between."""
        for number, session in enumerate(list(self._scheduler.sessions), 1):
            act(session)
            if number % _ENDED_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _park(self, since: float) -> None:
        """Parks sessions idle since a time."""
        if not self.pinned:
            for session in self._scheduler.idle(since):
                self.close(session, _PARKED)

    def now(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    def _report_stuck(self, stuck: bool) -> None:
        """Ends all sessions if the running step does not stop on an interrupt."""
        if stuck:
            ending = too_long(self._step_timeout)
            self._aborts = self._loop.create_task(self._each(partial(self.abort, ending=ending)))
        self._on_stuck(stuck)

    def _notify(self, settled: list[Settled]) -> None:
        """Notifies the callers and the observer of settled jobs."""
        for each in settled:
            for session in each.ended:
                self._session_ended(session)
            for outbox in each.outboxes:
                outbox.notify()
            if each.stats is not None:
                stats = each.stats()
                self._observer.stepped(stats)
                if stats.nonfinite and not self._nonfinite_logged:
                    self._nonfinite_logged = True  # the metric counts later ones
                    self._log.warning("predictions are not finite", predictions=stats.nonfinite)

    def _session_ended(self, session: Session) -> None:
        ending = session.ended
        assert ending is not None
        self._admission.release(self._state_nbytes)
        session.outbox.ended(session.ended_event(ending))
        if session.keeping is not None:
            session.keeping.ended()
        self._observer.session_ended(ending.reason)
        self._log.debug(
            "session ended",
            session=session.id,
            reason=str(ending.reason),
            position=session.position,
        )
        if not self._scheduler.sessions:
            self._idle.set()
