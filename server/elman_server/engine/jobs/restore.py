"""Restoring: writes sessions' snapshots into their slots, in a job before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.settled import Settle, Settled, Span
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.snapshot import Snapshot, Tensors


class RestoreRunner(Protocol):
    def restore(self, job: "RestoreJob") -> None:
        """Writes snapshots into the sessions' slots. The snapshots come from `capture`, here or in
        another process with the same model.

        May be called again for the same sessions after an exception.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob:
    """Sessions restored together: `snapshots[i]` belongs into slot `slots[i]`."""

    slots: Sequence[int]
    snapshots: Sequence[Snapshot]

    data_dependent = False
    failure = "the session's state could not be put back"

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def tensors(self) -> Tensors:
        """The snapshots' tensors as `[rows, *shape]`."""
        rows = [snapshot.tensors or () for snapshot in self.snapshots]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))

    def seconds(self, estimates: Estimates) -> float:
        return estimates.copy_seconds(len(self))

    def part(self, start: int, stop: int) -> "RestoreJob":
        return RestoreJob(slots=self.slots[start:stop], snapshots=self.snapshots[start:stop])

    def run(self, runner: RestoreRunner, interrupt: Interrupt | None) -> Settle:
        runner.restore(self)
        return self.settle

    def settle(self, lifecycle: Lifecycle, span: Span) -> Settled:
        outboxes = lifecycle.outboxes(self.slots)
        lifecycle.initialized(self.slots)
        return Settled(outboxes=outboxes)

    def fail(self, lifecycle: Lifecycle, ending: Ending, span: Span) -> Settled:
        return Settled.of(lifecycle.fail(self.slots, ending))
