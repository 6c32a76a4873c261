"""Effects of a finished job, for the engine to pass on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.session import Session
from elman_server.engine.stats import StepStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a job ran: seconds on the engine's clock."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    outboxes: set[Outbox]
    """Outboxes to notify."""
    ended: list[Session] = field(default_factory=list)
    """Sessions ended by the job."""
    stats: Callable[[], StepStats] | None = None
    """Computes a step's figures."""

    @staticmethod
    def of(ended: list[Session]) -> "Settled":
        """Returns the effects of a job that ended sessions."""
        return Settled(outboxes={session.outbox for session in ended}, ended=ended)


Settle = Callable[[Lifecycle, Span], Settled]
"""Puts a job's results where they belong: into outboxes, and into the sessions' figures."""
