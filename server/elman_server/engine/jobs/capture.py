"""Capturing: takes sessions' snapshots from their slots, in a job between two steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.settled import Settle, Settled, Span
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.snapshot import Tensors


class CaptureRunner(Protocol):
    def capture(self, job: "CaptureJob") -> Tensors:
        """Returns all tensors kept for the sessions, `[len(job), *shape]` each. The row of a
        slot without a written state is undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    slots: Sequence[int]

    data_dependent = False
    failure = "the session's state could not be read"

    def __len__(self) -> int:
        return len(self.slots)

    def seconds(self, estimates: Estimates) -> float:
        return estimates.copy_seconds(len(self))

    def part(self, start: int, stop: int) -> "CaptureJob":
        return CaptureJob(slots=self.slots[start:stop])

    def run(self, runner: CaptureRunner, interrupt: Interrupt | None) -> Settle:
        return partial(self.settle, runner.capture(self))

    def settle(self, tensors: Tensors, lifecycle: Lifecycle, span: Span) -> Settled:
        return self._settle(tensors, lifecycle, span)

    def fail(self, lifecycle: Lifecycle, ending: Ending, span: Span) -> Settled:
        """Has the sessions go on without a snapshot."""
        return self._settle(None, lifecycle, span)

    def _settle(self, tensors: Tensors | None, lifecycle: Lifecycle, span: Span) -> Settled:
        outboxes = lifecycle.outboxes(self.slots)
        snapshots, ended = lifecycle.captured(self.slots, tensors, span.end)
        for session, snapshot in snapshots:
            session.outbox.snapshot(session.snapshot_event(snapshot))
            if session.keeping is not None:
                session.keeping.snapshot(snapshot)
        return Settled(outboxes=outboxes, ended=ended)
