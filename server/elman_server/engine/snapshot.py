"""A snapshot: a session between two of its elements, from which it can go on anywhere.

It is read from the session's slot, and put into another's, as work of its own between two steps.
"""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from elman_server.engine.session import Session

NEVER = int(np.iinfo(np.int64).max)
"""A position that no session reaches."""

Tensors = tuple[NDArray[Any], ...]
"""All that a runner keeps of sessions, in an order of its own: `[rows, *shape]` each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    position: int
    """How many elements the session had answered."""
    tensors: Tensors | None
    """Its row of each, `[*shape]`; None where it was still in the model's initial state."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.tensors or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How often a session's snapshot is taken without being asked for: after a step with which it
    has answered `elements` since the last; or `least` elements, and `seconds` have gone by."""

    elements: int = NEVER
    seconds: float = inf
    least: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """Sessions whose snapshots are taken together; the slot of `sessions[i]` is `slots[i]`."""

    sessions: list["Session"]
    slots: list[int]

    def __len__(self) -> int:
        return len(self.sessions)

    def part(self, start: int, stop: int) -> "CaptureJob":
        """Rows `start` to `stop - 1` alone."""
        return CaptureJob(sessions=self.sessions[start:stop], slots=self.slots[start:stop])


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob:
    """Sessions that go on together from snapshots; the slot of `sessions[i]` is `slots[i]`."""

    sessions: list["Session"]
    slots: list[int]
    snapshots: list[Snapshot]

    def __len__(self) -> int:
        return len(self.sessions)

    def part(self, start: int, stop: int) -> "RestoreJob":
        """Rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return RestoreJob(
            sessions=self.sessions[rows], slots=self.slots[rows], snapshots=self.snapshots[rows]
        )

    @property
    def tensors(self) -> Tensors:
        """The rows of all of them."""
        rows = [snapshot.tensors or () for snapshot in self.snapshots]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))
