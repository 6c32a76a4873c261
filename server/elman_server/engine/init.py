"""A beginning: sessions whose state is made from what they were given at their open.

A model may take contexts: then a session's first state is no constant, but has to be computed, or
holds what it was given. Or a session goes on from a snapshot. That is done once, before the
session's first step, as work of its own: so what it was given is not kept, however long a session
waits for its first element, and a step need not know of it.
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
"""What one session is given at its open, by name: `[*shape]`."""


InitialState = Contexts | Snapshot
"""What a session's first state here is made from."""


class Start(Enum):
    """Where a session's first step takes its state from."""

    INITIAL = "initial"
    """From the model: it is the same for all sessions."""
    AWAITED = "awaited"
    """It is not known yet."""
    DUE = "due"
    """From its slot, once it has begun; it stands in line for that."""
    UNDER_WAY = "under way"
    """The same; it is part of a beginning that runs."""
    BEGUN = "begun"
    """From its slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitJob:
    """Sessions that begin together. `contexts[i]` are those of `sessions[i]`, whose slot is
    `slots[i]`."""

    sessions: list["Session"]
    slots: list[int]
    contexts: list[Contexts]

    def __len__(self) -> int:
        return len(self.sessions)

    def part(self, start: int, stop: int) -> "InitJob":
        """Rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return InitJob(
            sessions=self.sessions[rows], slots=self.slots[rows], contexts=self.contexts[rows]
        )


class InitQueue:
    """The sessions that have yet to begin, in the order of their opens. The scheduler's own."""

    def __init__(self) -> None:
        self._line: deque[Session] = deque()
        self.nbytes = 0
        """Of what those were given that have not begun."""

    def __bool__(self) -> bool:
        return bool(self._line)

    def expect(self, session: "Session", given: InitialState | None) -> None:
        """One that is awaited; what it begins from, if nothing else is found, is `given`."""
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
        """The next ones that begin in the same way, at most so many; None if there is none."""
        sessions: list[Session] = []
        contexts: list[Contexts] = []
        snapshots: list[Snapshot] = []
        while self._line and len(contexts) < most and len(snapshots) < most_restored:
            session = self._line[0]
            given = session.given
            if given is None:  # it has ended
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
        """A beginning is over, whatever came of it."""
        given: Sequence[InitialState] = (
            beginning.snapshots if isinstance(beginning, RestoreJob) else beginning.contexts
        )
        for session, each in zip(beginning.sessions, given, strict=True):
            session.start = Start.BEGUN
            self._count(session, -nbytes(each))

    def drop(self, session: "Session") -> None:
        """What a session that is due, or awaited, was given is of no use any more."""
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
