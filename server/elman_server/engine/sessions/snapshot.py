"""A snapshot: a session's state between two elements. The session can resume from it anywhere."""

from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NEVER = int(np.iinfo(np.int64).max)
"""A position beyond the end of any session."""

Tensors = tuple[NDArray[Any], ...]
"""All state that a runner keeps for sessions, in the runner's order: `[rows, *shape]` each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    position: int
    """Elements answered by the session."""
    tensors: Tensors | None
    """The session's row of each tensor, `[*shape]`; `None` in the model's initial state."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.tensors or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Interval of snapshots without a request. A snapshot is due after a step that brings the
    answers since the last snapshot to `elements`; or to `least`, if `seconds` have passed too."""

    elements: int = NEVER
    seconds: float = inf
    least: int = 1


class Keeping(Protocol):
    """Destination of a named session's checkpoints."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """Takes the session's new snapshot."""

    def ended(self) -> None:
        """Notes the session's end: no more snapshots follow."""
