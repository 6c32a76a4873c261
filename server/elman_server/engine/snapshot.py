"""A snapshot: a session's state between two elements. The session can resume from it anywhere.

Capturing a slot and restoring into a slot are separate jobs, between two steps.
"""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """Slots captured together."""

    slots: list[int]

    def __len__(self) -> int:
        return len(self.slots)

    def part(self, start: int, stop: int) -> "CaptureJob":
        """Returns rows `start` to `stop - 1` alone."""
        return CaptureJob(slots=self.slots[start:stop])


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob:
    """Sessions restored together: `snapshots[i]` belongs into slot `slots[i]`."""

    slots: list[int]
    snapshots: list[Snapshot]

    def __len__(self) -> int:
        return len(self.slots)

    def part(self, start: int, stop: int) -> "RestoreJob":
        """Returns rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return RestoreJob(slots=self.slots[rows], snapshots=self.snapshots[rows])

    @property
    def tensors(self) -> Tensors:
        """The snapshots' tensors as `[rows, *shape]`."""
        rows = [snapshot.tensors or () for snapshot in self.snapshots]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))
