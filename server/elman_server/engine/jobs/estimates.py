"""Estimates of how long the model's work takes."""

from collections.abc import Callable
from dataclasses import dataclass

_COPIED_PER_SECOND = 1e9
"""Bytes of state captured or restored in a second, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    step_seconds: Callable[[int, int], float]
    """Seconds of a step, by rows and chunk."""
    init_seconds: Callable[[int], float]
    """Seconds of making first states from contexts, by rows."""
    state_nbytes: int = 0
    """Bytes of a session's state."""
    data_dependent: bool = False
    """Whether some elements or contexts may take longer than estimated."""

    def copy_seconds(self, rows: int) -> float:
        """Seconds of capturing or restoring the states of `rows` sessions."""
        return rows * self.state_nbytes / _COPIED_PER_SECOND
