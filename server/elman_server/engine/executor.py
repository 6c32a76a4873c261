"""The executor: runs an engine's work on the model, on whichever thread, within limits of time."""

from collections import deque
from collections.abc import Callable

from elman_server.engine.batch import Batch
from elman_server.engine.delivery import Outputs
from elman_server.engine.init import InitJob
from elman_server.engine.interrupt import Interrupt
from elman_server.engine.snapshot import CaptureJob, RestoreJob, Tensors
from elman_server.engine.worker import Result, Work
from elman_server.runner import Runner

_INLINE_SECONDS = 200e-6
"""A step shorter than this runs on the event loop: handing it to a thread and back costs about as
much (0.3 ms on two cores)."""
_OVERRUN_SECONDS = 20e-3
"""CPU time of work that was to be done within `_INLINE_SECONDS`. A model that took so long once
never runs on the event loop again, where everybody waits for it."""
_COPIED_PER_SECOND = 1e9
"""Bytes of state that are read or put back in a second, at least."""
_PART_SECONDS, _PART_FACTOR = 0.25, 20
"""A part of a step that took too long gets so many seconds, or so many times what it should take:
the sessions that took too long are to be found while the others wait."""
_MOST_LATE = 16
"""Parts of a step that may take too long, too: with so many those are found who do, if they are
two. Where they are more, all end that are not known by then to take no longer than they should, as
others wait for the model meanwhile."""
_STUCK_SECONDS = 1.0
"""A run that goes on for so long after it was interrupted does not hear interrupts."""
_LOOK_SECONDS = 0.05
"""Between two looks at a run that was interrupted, or at the parts of a step that was."""


class TooLong(Exception):
    """A run was ended because it took too long."""


class Executor:
    """One run at a time: on the event loop with `run_inline`, or on the compute thread with `run`.
    The event loop calls `look` while the compute thread runs something."""

    def __init__(
        self,
        *,
        runner: Runner,
        step_seconds: Callable[[int, int], float],
        beginning_seconds: Callable[[int], float],
        state_nbytes: int,
        inline: bool,
        timeout: float,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
    ) -> None:
        """`step_seconds(rows, chunk)` and `beginning_seconds(rows)` estimate how long a step and a
        beginning take. `inline`: whether these estimates hold whatever the numbers are. A run that
        takes longer than `timeout` seconds is ended. `cpu_clock`: seconds that the thread which
        calls it has computed."""
        self._runner = runner
        self._step_seconds = step_seconds
        self._beginning_seconds = beginning_seconds
        self._state_nbytes = state_nbytes
        self._timeout = timeout
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._interrupt: Interrupt | None = None
        """Of what the compute thread runs."""
        self.inline = inline
        """Whether the model may run on the event loop."""

    def runs_inline(self, work: Work) -> bool:
        """Whether work is short enough for the event loop."""
        if not self.inline and isinstance(work, Batch | InitJob):
            return False
        return self._seconds(work) < _INLINE_SECONDS and self._runner.has_room(work.slots)

    def run_inline(self, work: Work) -> list[Result]:
        """Runs work to its end, on the thread that calls."""
        start = self._cpu_clock()
        results = self._run(work, None)
        if self._cpu_clock() - start > _OVERRUN_SECONDS:
            self.inline = False
        return results

    def run(self, work: Work) -> list[Result]:
        """Runs work to its end, or to its deadline. For the compute thread."""
        return self._run(work, self._timeout)

    def look(self, now: float) -> float:
        """Interrupts what the compute thread runs, if that takes too long. Returns after how many
        seconds to look again."""
        interrupt = self._interrupt
        if interrupt is None:
            return _LOOK_SECONDS
        if now >= interrupt.deadline and not interrupt.fired:
            interrupt.fire(now)
        return max(_LOOK_SECONDS, interrupt.deadline - now)

    def stuck(self, now: float) -> bool:
        """Whether what the compute thread runs goes on although it was interrupted."""
        interrupt = self._interrupt
        return interrupt is not None and now >= interrupt.fired_at + _STUCK_SECONDS

    def _run(self, work: Work, limit: float | None) -> list[Result]:
        """Runs it as a whole or, if that fails or takes too long, in halves, so that a session on
        which the runtime fails ends alone. `limit`: seconds that it may take."""
        whole = self._run_part(work, limit)
        if not isinstance(whole.outputs, Exception):
            return [whole]
        late = int(isinstance(whole.outputs, TooLong))
        results: list[Result] = []
        # Halves before quarters: what is no session's fault is soon found, wherever it is.
        failed = deque([whole])
        while failed:
            result = failed.popleft()
            rows = len(result.work)
            if rows == 1 or late > _MOST_LATE:
                results.append(result)
                continue
            half = rows // 2
            for part in (result.work.part(0, half), result.work.part(half, rows)):
                own = self._run_part(part, self._part_limit(part) if late else limit)
                late += isinstance(own.outputs, TooLong)
                (failed if isinstance(own.outputs, Exception) else results).append(own)
        return results

    def _run_part(self, work: Work, limit: float | None) -> Result:
        start = self._clock()
        interrupt = None
        if limit is not None:
            interrupt = self._interrupt = Interrupt(start + limit)
        outputs: Outputs | Tensors | Exception = {}
        try:
            match work:
                case Batch():
                    outputs = self._runner.run(work, interrupt)
                case CaptureJob():
                    outputs = self._runner.read(work)
                case InitJob():
                    self._runner.begin(work, interrupt)
                case RestoreJob():
                    self._runner.restore(work)
        except Exception as error:  # whatever the runtime raises ends sessions, not the engine
            late = interrupt is not None and interrupt.fired
            outputs = TooLong() if late else error
        finally:
            if interrupt is not None:
                self._interrupt = None
        return Result(work=work, outputs=outputs, start=start, end=self._clock())

    def _part_limit(self, part: Work) -> float:
        return min(self._timeout, max(_PART_SECONDS, _PART_FACTOR * self._seconds(part)))

    def _seconds(self, work: Work) -> float:
        if isinstance(work, Batch):
            return self._step_seconds(len(work), work.chunk)
        if isinstance(work, InitJob):
            return self._beginning_seconds(len(work))
        return len(work) * self._state_nbytes / _COPIED_PER_SECOND
