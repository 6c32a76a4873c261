"""Initialization: makes a session's state from contexts or from a snapshot.

A model may take contexts: then the first state is not constant, but computed from the contexts or
equal to them. Or a session resumes from a snapshot. Either happens once, in a separate job before
the session's first step. So contexts are freed early, even if the first element comes late, and a
step does not know of contexts.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from elman_server.engine.snapshot import RestoreJob, Snapshot

if TYPE_CHECKING:
    from elman_server.engine.session import Session

Contexts = Mapping[str, NDArray[Any]]
"""Contexts of a session by name: `[*shape]`."""


InitialState = Contexts | Snapshot
"""Source of a session's first state on this server."""


class Start(Enum):
    """Source of the state for a session's first step."""

    INITIAL = "initial"
    """The model: a constant for all sessions."""
    AWAITED = "awaited"
    """Not known yet: the lookup is still running."""
    DUE = "due"
    """The slot, once initialized; the session waits in the queue."""
    UNDER_WAY = "under way"
    """The slot, once initialized; the session is in a running job."""
    BEGUN = "begun"
    """The slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitJob:
    """Sessions to initialize together from contexts. `contexts[i]` belong to `sessions[i]` in slot
    `slots[i]`."""

    sessions: list["Session"]
    slots: list[int]
    contexts: list[Contexts]

    def __len__(self) -> int:
        return len(self.sessions)

    def part(self, start: int, stop: int) -> "InitJob":
        """Returns rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return InitJob(
            sessions=self.sessions[rows], slots=self.slots[rows], contexts=self.contexts[rows]
        )


class InitQueue:
    """Sessions without a state, in the order of their opens. Used by the scheduler alone."""

    def __init__(self) -> None:
        self._line: deque[Session] = deque()
        self.nbytes = 0
        """Bytes of contexts and snapshots of sessions without a ready state."""

    def __bool__(self) -> bool:
        return bool(self._line)

    def expect(self, session: "Session", given: InitialState | None) -> None:
        """Marks a session as awaited. `given` is used if the lookup finds no state."""
        session.start = Start.AWAITED
        session.given = given
        if given is not None:
            self._count(session, nbytes(given))

    def add(self, session: "Session", given: InitialState) -> None:
        session.start = Start.DUE
        session.given = given
        self._count(session, nbytes(given))
        self._line.append(session)

    def take(self, *, most: int, most_restored: int) -> InitJob | RestoreJob | None:
        """Takes the next sessions with the same kind of source; `None` if the queue is empty. At
        most `most` for an `InitJob`, `most_restored` for a `RestoreJob`."""
        sessions: list[Session] = []
        contexts: list[Contexts] = []
        snapshots: list[Snapshot] = []
        while self._line and len(contexts) < most and len(snapshots) < most_restored:
            session = self._line[0]
            given = session.given
            if given is None:  # the session has ended
                self._line.popleft()
                continue
            if isinstance(given, Snapshot):
                if contexts:
                    break
                snapshots.append(given)
            else:
                if snapshots:
                    break
                contexts.append(given)
            self._line.popleft()
            session.given = None
            session.start = Start.UNDER_WAY
            sessions.append(session)
        slots = [session.slot.index for session in sessions]
        if snapshots:
            return RestoreJob(sessions=sessions, slots=slots, snapshots=snapshots)
        if contexts:
            return InitJob(sessions=sessions, slots=slots, contexts=contexts)
        return None

    def settle(self, beginning: InitJob | RestoreJob) -> None:
        """Marks a job's sessions as initialized, even if the job failed."""
        given: Sequence[InitialState] = (
            beginning.snapshots if isinstance(beginning, RestoreJob) else beginning.contexts
        )
        for session, each in zip(beginning.sessions, given, strict=True):
            session.start = Start.BEGUN
            self._count(session, -nbytes(each))

    def drop(self, session: "Session") -> None:
        """Drops the contexts or snapshot of a due or awaited session."""
        assert session.given is not None
        self._count(session, -nbytes(session.given))
        session.given = None

    def _count(self, session: "Session", nbytes: int) -> None:
        session.outbox.contexts_nbytes += nbytes
        self.nbytes += nbytes


def nbytes(given: InitialState) -> int:
    if isinstance(given, Snapshot):
        return given.nbytes
    return sum(array.nbytes for array in given.values())
