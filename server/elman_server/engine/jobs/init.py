"""Initialization: makes sessions' first states from contexts, in a job before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.settled import Settle, Settled, Span
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.initial_state import Contexts


class InitRunner(Protocol):
    def initialize(self, job: "InitJob", interrupt: Interrupt | None = None) -> None:
        """Makes sessions' first states from their contexts. Writes states and step contexts into
        the sessions' slots.

        May be called again for the same sessions after an exception.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class InitJob:
    """Sessions to initialize together: `contexts[i]` belong to the session in slot `slots[i]`."""

    slots: Sequence[int]
    contexts: Sequence[Contexts]

    data_dependent = True
    failure = "the model failed to make the session's state from its contexts"

    def __len__(self) -> int:
        return len(self.slots)

    def seconds(self, estimates: Estimates) -> float:
        return estimates.init_seconds(len(self))

    def part(self, start: int, stop: int) -> "InitJob":
        return InitJob(slots=self.slots[start:stop], contexts=self.contexts[start:stop])

    def run(self, runner: InitRunner, interrupt: Interrupt | None) -> Settle:
        runner.initialize(self, interrupt)
        return self.settle

    def settle(self, lifecycle: Lifecycle, span: Span) -> Settled:
        outboxes = lifecycle.outboxes(self.slots)
        lifecycle.initialized(self.slots)
        return Settled(outboxes=outboxes)

    def fail(self, lifecycle: Lifecycle, ending: Ending, span: Span) -> Settled:
        return Settled.of(lifecycle.fail(self.slots, ending))
