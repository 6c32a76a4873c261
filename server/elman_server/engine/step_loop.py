"""The step loop: runs the scheduler's jobs, on the event loop or on the compute thread.

Watches the compute thread for a job that takes too long. Knows no callers: settled jobs go to
`notify`.
"""

import asyncio
from collections.abc import Callable
from math import inf

import structlog

from elman_server.engine.admission import Admission
from elman_server.engine.executor import Executor
from elman_server.engine.jobs.job import Job, Result, TooLong
from elman_server.engine.jobs.settled import Settled
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.worker import Worker

_AHEAD = 2
"""Limit on steps at the compute thread: the running step and, if already full, the next step. The
thread then need not wait for the event loop between steps. A late element waits for at most two
steps, and both are bounded."""


class StepLoop:
    """Not thread-safe: call every method on the event loop of `start`."""

    def __init__(
        self,
        *,
        name: str,
        step_timeout: float,
        scheduler: Scheduler,
        executor: Executor,
        admission: Admission,
        notify: Callable[[list[Settled]], None],
        report_stuck: Callable[[bool], None],
        clock: Callable[[], float],
    ) -> None:
        """If a step does not stop on the interrupt at `step_timeout` seconds, the loop calls
        `report_stuck(True)`; if the step stops later, `report_stuck(False)`."""
        self._step_timeout = step_timeout
        self._scheduler = scheduler
        self._executor = executor
        self._admission = admission
        self._notify = notify
        self._report_stuck = report_stuck
        self._clock = clock
        self._worker = Worker(name=f"elman-{name}", run=executor.run, done=self._job_done)
        self._log = structlog.get_logger("elman.session").bind(model=name)
        self.stuck = False
        """Whether the running step does not stop on an interrupt."""
        self._check: asyncio.TimerHandle | None = None
        self._turn_due = False
        self._working = 0
        """Jobs at the compute thread."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker.start()

    async def stop(self) -> None:
        """Waits for the running step and ends the compute thread."""
        if self._check is not None:
            self._check.cancel()
        await self._worker.stop()
        # Both refer to the owner: without the cycle the model is freed at once.
        del self._notify, self._report_stuck

    def wake(self) -> None:
        """Starts a step in the event loop's next turn, if a session is ready then."""
        if not self._turn_due and self._working < _AHEAD:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self._start_steps(idle=not self._working)

    def _start_steps(self, *, idle: bool) -> None:
        while self._working < _AHEAD and (not self._working or self._scheduler.full):
            job = self._scheduler.schedule(idle=idle)
            idle = False
            self._admission.relieve()
            if job is None:
                return
            if not self._working and self._executor.runs_inline(job):
                self._notify(self._settle(self._run_inline(job)))
                if self._scheduler.ready:
                    self.wake()
                return
            self._working += 1
            self._worker.submit(job)
            self._schedule_check()

    def _run_inline(self, job: Job) -> list[Result]:
        was_inline = self._executor.inline
        results = self._executor.run_inline(job)
        if was_inline and not self._executor.inline:
            self._log.warning("a step took long, no other runs on the event loop")
        return results

    def _job_done(self, results: list[Result]) -> None:
        self._working -= 1
        if self.stuck:
            self.stuck = False
            self._log.warning("the model came to the end of a step that could not be ended")
            self._report_stuck(False)
        settled = self._settle(results)
        # Start the next step first: notifying this step's callers can overlap with it.
        self._start_steps(idle=False)
        self._notify(settled)

    def _schedule_check(self) -> None:
        """Schedules a check of the compute thread for work that takes too long."""
        if self._check is None and self._step_timeout != inf:
            self._check = self._loop.call_later(self._step_timeout, self._check_deadline)

    def _check_deadline(self) -> None:
        self._check = None
        if not self._working:
            return
        now = self._clock()
        delay = self._executor.check_deadline(now)
        if not self.stuck and self._executor.stuck(now):
            self.stuck = True
            self._log.error("the model does not come to the end of a step, and serves no more")
            self._report_stuck(True)
        self._check = self._loop.call_later(delay, self._check_deadline)

    def _settle(self, results: list[Result]) -> list[Settled]:
        settled = [self._scheduler.settle(result) for result in results]
        self._admission.relieve()
        failed = [result for result in results if isinstance(result.outcome, Exception)]
        if failed:
            self._log_failures(failed)
        return settled

    def _log_failures(self, failed: list[Result]) -> None:
        late = [result for result in failed if isinstance(result.outcome, TooLong)]
        if late:
            self._log.error(
                "a step took too long",
                step_timeout=self._step_timeout,
                sessions=sum(len(result.job) for result in late),
            )
        others = [result for result in failed if not isinstance(result.outcome, TooLong)]
        if others:
            self._log.error(
                "the model failed",
                error=str(others[0].outcome),
                sessions=sum(len(result.job) for result in others),
            )
