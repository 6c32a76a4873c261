"""Initialization: makes a session's state from contexts or from a snapshot.

A model may take contexts: then the first state is not constant, but computed from the contexts or
equal to them. Or a session resumes from a snapshot. Either happens once, in a separate job before
the session's first step. So contexts are freed early, even if the first element comes late, and a
step does not know of contexts.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from elman_server.engine.snapshot import RestoreJob, Snapshot
from elman_server.engine.table import SessionTable

Contexts = Mapping[str, NDArray[Any]]
"""Contexts of a session by name: `[*shape]`."""


InitialState = Contexts | Snapshot
"""Source of a session's first state on this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitJob:
    """Sessions to initialize together: `contexts[i]` belong to the session in slot `slots[i]`."""

    slots: list[int]
    contexts: list[Contexts]

    def __len__(self) -> int:
        return len(self.slots)

    def part(self, start: int, stop: int) -> "InitJob":
        """Returns rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return InitJob(slots=self.slots[rows], contexts=self.contexts[rows])


class InitQueue:
    """Sessions without a state, in the order of their opens. Used by the scheduler alone."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._due: OrderedDict[int, InitialState] = OrderedDict()
        """Initial states by row."""
        self._awaited: dict[int, InitialState] = {}
        """Initial states by row, for use if the lookup finds none."""
        self.nbytes = 0
        """Bytes of contexts and snapshots of sessions without a ready state."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def expect(self, row: int, initial_state: InitialState | None) -> None:
        """Keeps an awaited session's `initial_state`, used if the lookup finds no state."""
        if initial_state is not None:
            self._awaited[row] = initial_state
            self._count(row, nbytes(initial_state))

    def add(self, row: int, initial_state: InitialState) -> None:
        self._due[row] = initial_state
        self._count(row, nbytes(initial_state))

    def take(self, *, most: int, most_restored: int) -> InitJob | RestoreJob | None:
        """Takes the next sessions with the same kind of source; `None` if the queue is empty. At
        most `most` for an `InitJob`, `most_restored` for a `RestoreJob`."""
        slots: list[int] = []
        contexts: list[Contexts] = []
        snapshots: list[Snapshot] = []
        while self._due and len(contexts) < most and len(snapshots) < most_restored:
            row, initial_state = next(iter(self._due.items()))
            if isinstance(initial_state, Snapshot):
                if contexts:
                    break
                snapshots.append(initial_state)
            else:
                if snapshots:
                    break
                contexts.append(initial_state)
            del self._due[row]
            slots.append(row)
        if snapshots:
            return RestoreJob(slots=slots, snapshots=snapshots)
        if contexts:
            return InitJob(slots=slots, contexts=contexts)
        return None

    def settle(self, job: InitJob | RestoreJob) -> None:
        """Stops counting the bytes of a finished job."""
        given: list[InitialState] = [
            *(job.snapshots if isinstance(job, RestoreJob) else job.contexts)
        ]
        for row, each in zip(job.slots, given, strict=True):
            self._count(row, -nbytes(each))

    def forget(self, row: int) -> None:
        """Drops the contexts or snapshot of a session that waits, if any."""
        for queue in (self._due, self._awaited):
            if (initial_state := queue.pop(row, None)) is not None:
                self._count(row, -nbytes(initial_state))

    def _count(self, row: int, nbytes: int) -> None:
        self._table.receiver_of(row).outbox.contexts_nbytes += nbytes
        self.nbytes += nbytes


def nbytes(initial_state: InitialState) -> int:
    if isinstance(initial_state, Snapshot):
        return initial_state.nbytes
    return sum(array.nbytes for array in initial_state.values())
