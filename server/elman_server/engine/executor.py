"""The executor: runs jobs on the model, on either thread, within time limits."""

from collections import deque
from collections.abc import Callable

from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.job import Job, Result, TooLong
from elman_server.engine.jobs.runner import Runner
from elman_server.engine.jobs.settled import Settle, Span

_INLINE_SECONDS = 200e-6
"""A step shorter than this runs on the event loop: a round trip to the compute thread costs about
as much (0.3 ms on two cores)."""
_OVERRUN_SECONDS = 20e-3
"""CPU time at which work meant to take `_INLINE_SECONDS` counts as an overrun. After an overrun the
model never runs on the event loop again, because there every session waits for it."""
_PART_SECONDS, _PART_FACTOR = 0.25, 20
"""Time limit for a part of a late step: seconds, or a multiple of the estimate, whichever is more.
The search for slow sessions must end soon, because other sessions wait."""
_MOST_LATE = 16
"""Limit on late parts of a late step: enough to find two slow sessions. Beyond this number all
sessions end unless already known to be fast, because other sessions wait for the model."""
_STUCK_SECONDS = 1.0
"""A run that goes on for this time after an interrupt ignores interrupts."""
_CHECK_SECONDS = 0.05
"""Seconds between two checks of an interrupted run, or of the parts of a late step."""


class Executor:
    """Runs one job at a time: on the event loop with `run_inline`, or on the compute thread
    with `run`. The event loop calls `check_deadline` while the compute thread runs a job."""

    def __init__(
        self,
        *,
        runner: Runner,
        estimates: Estimates,
        timeout: float,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
    ) -> None:
        """A run that takes longer than `timeout` seconds is interrupted. `cpu_clock`: CPU seconds
        of the calling thread."""
        self._runner = runner
        self._estimates = estimates
        self._timeout = timeout
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._interrupt: Interrupt | None = None
        """Interrupt of the job on the compute thread."""
        self.inline = not estimates.data_dependent
        """Whether the model may run on the event loop."""

    def runs_inline(self, job: Job) -> bool:
        """Whether a job is short enough for the event loop."""
        if job.data_dependent and not self.inline:
            return False
        return job.seconds(self._estimates) < _INLINE_SECONDS and self._runner.has_room(job.slots)

    def run_inline(self, job: Job) -> list[Result]:
        """Runs a job to its end on the calling thread."""
        start = self._cpu_clock()
        results = self._run(job, None)
        if self._cpu_clock() - start > _OVERRUN_SECONDS:
            self.inline = False
        return results

    def run(self, job: Job) -> list[Result]:
        """Runs a job to its end or deadline. For the compute thread."""
        return self._run(job, self._timeout)

    def check_deadline(self, now: float) -> float:
        """Interrupts the compute thread's job after its deadline. Returns the seconds until the
        next check."""
        interrupt = self._interrupt
        if interrupt is None:
            return _CHECK_SECONDS
        if now >= interrupt.deadline and not interrupt.fired:
            interrupt.fire(now)
        return max(_CHECK_SECONDS, interrupt.deadline - now)

    def stuck(self, now: float) -> bool:
        """Whether the compute thread's job goes on although it was interrupted."""
        interrupt = self._interrupt
        return interrupt is not None and now >= interrupt.fired_at + _STUCK_SECONDS

    def _run(self, job: Job, limit: float | None) -> list[Result]:
        """Runs a job as a whole. After a failure or a time-out, runs halves, so that a session on
        which the runtime fails ends alone. `limit`: seconds, or `None`."""
        whole = self._run_part(job, limit)
        if not isinstance(whole.outcome, Exception):
            return [whole]
        late = int(isinstance(whole.outcome, TooLong))
        results: list[Result] = []
        # Halves before quarters: rows without a fault are found early, wherever the fault is.
        failed = deque([whole])
        while failed:
            result = failed.popleft()
            rows = len(result.job)
            if rows == 1 or late > _MOST_LATE:
                results.append(result)
                continue
            half = rows // 2
            for part in (result.job.part(0, half), result.job.part(half, rows)):
                own = self._run_part(part, self._part_limit(part) if late else limit)
                late += isinstance(own.outcome, TooLong)
                (failed if isinstance(own.outcome, Exception) else results).append(own)
        return results

    def _run_part(self, job: Job, limit: float | None) -> Result:
        start = self._clock()
        interrupt = None
        if limit is not None:
            interrupt = self._interrupt = Interrupt(start + limit)
        outcome: Settle | Exception
        try:
            outcome = job.run(self._runner, interrupt)
        except Exception as error:  # a runtime error ends sessions, not the engine
            late = interrupt is not None and interrupt.fired
            outcome = TooLong(self._timeout) if late else error
        finally:
            if interrupt is not None:
                self._interrupt = None
        return Result(job=job, outcome=outcome, span=Span(start=start, end=self._clock()))

    def _part_limit(self, part: Job) -> float:
        estimate = part.seconds(self._estimates)
        return min(self._timeout, max(_PART_SECONDS, _PART_FACTOR * estimate))
