"""Figures about the engine's work, for an observer outside of the core."""

from dataclasses import dataclass
from typing import Protocol

from elman_server.engine.arrays import Times
from elman_server.engine.sessions.ending import EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    batch_size: int
    answered: int
    """Elements with predictions for an open session."""
    seconds: float
    queue_delays: Times
    """Seconds from each element's arrival to the step's start."""
    nonfinite: int = 0
    """Predictions with a NaN or an infinity."""


class Observer(Protocol):
    """Gets the engine's figures. Called from the event loop; must not raise."""

    def session_opened(self) -> None: ...

    def session_ended(self, reason: EndReason) -> None: ...

    def session_rejected(self, reason: str) -> None: ...

    def stepped(self, stats: StepStats) -> None: ...
