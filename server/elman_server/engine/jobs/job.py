"""A job: work for the model that concerns some sessions, such as a step.

A queue of the scheduler makes the job, the executor runs it, and the scheduler settles it. Each
kind of job is a class in a module of its own; what runs and settles jobs does not know the kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from elman_server.engine.arrays import Rows
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.runner import Runner
from elman_server.engine.jobs.settled import Settle, Settled, Span
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.sessions.ending import Ending, EndReason


class Job(Protocol):
    """Work that one call of the runner does for all sessions of the job."""

    @property
    def slots(self) -> Sequence[int] | Rows:
        """Slots of the sessions."""

    @property
    def data_dependent(self) -> bool:
        """Whether the time may depend on the data, if it does so in the model."""

    @property
    def failure(self) -> str:
        """Text for people about sessions that end because the job failed."""

    def __len__(self) -> int:
        """Number of sessions."""

    def seconds(self, estimates: Estimates) -> float:
        """Estimates the job's seconds."""

    def part(self, start: int, stop: int) -> Self:
        """Returns rows `start` to `stop - 1` as a separate job."""

    def run(self, runner: Runner, interrupt: Interrupt | None) -> Settle:
        """Runs the job on the model. Raises whatever the runner raises."""

    def fail(self, lifecycle: Lifecycle, ending: Ending, span: Span) -> Settled:
        """Ends the sessions of a failed job, or has them go on without its results."""


class TooLong(Exception):
    """A run was interrupted after `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.ending = too_long(timeout)


def too_long(timeout: float) -> Ending:
    return Ending(
        reason=EndReason.STEP_FAILED,
        message=f"a step took longer than step_timeout, which is {timeout:g} s; the session's "
        "state is lost",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A job that has run."""

    job: Job
    outcome: Settle | Exception
    span: Span

    def settle(self, lifecycle: Lifecycle) -> Settled:
        match self.outcome:
            case TooLong(ending=ending):
                return self.job.fail(lifecycle, ending, self.span)
            case Exception():
                ending = Ending(reason=EndReason.STEP_FAILED, message=self.job.failure)
                return self.job.fail(lifecycle, ending, self.span)
            case settle:
                return settle(lifecycle, self.span)
