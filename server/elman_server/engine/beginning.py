"""A beginning: sessions whose state is made from what they were given at their open.

A model may take contexts: then a session's first state is no constant, but has to be computed, or
holds what it was given. That is done once, before the session's first step, as work of its own: so
contexts are not kept, however long a session waits for its first element, and a step need not know
of them.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from elman_server.engine.session import Session

Contexts = Mapping[str, NDArray[Any]]
"""What one session is given at its open, by name: `[*shape]`."""


class Start(Enum):
    """Where a session's first step takes its state from."""

    INITIAL = "initial"
    """From the model: it is the same for all sessions."""
    DUE = "due"
    """From its slot, once it has begun; it stands in line for that."""
    UNDER_WAY = "under way"
    """The same; it is part of a beginning that runs."""
    BEGUN = "begun"
    """From its slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Sessions that begin together. `contexts[i]` are those of `sessions[i]`, whose slot is
    `slots[i]`."""

    sessions: list["Session"]
    slots: list[int]
    contexts: list[Contexts]

    def __len__(self) -> int:
        return len(self.sessions)

    def part(self, start: int, stop: int) -> "Beginning":
        """Rows `start` to `stop - 1` alone."""
        rows = slice(start, stop)
        return Beginning(
            sessions=self.sessions[rows], slots=self.slots[rows], contexts=self.contexts[rows]
        )


class Beginners:
    """The sessions that have yet to begin, in the order of their opens. The scheduler's own."""

    def __init__(self) -> None:
        self._line: deque[Session] = deque()
        self.nbytes = 0
        """Of the contexts of those that have not begun."""

    def __bool__(self) -> bool:
        return bool(self._line)

    def add(self, session: "Session", contexts: Contexts) -> None:
        session.start = Start.DUE
        session.contexts = contexts
        self._count(session, nbytes(contexts))
        self._line.append(session)

    def take(self, most: int) -> Beginning | None:
        """The next ones, at most so many; None if there is none."""
        sessions: list[Session] = []
        contexts: list[Contexts] = []
        while self._line and len(sessions) < most:
            session = self._line.popleft()
            if session.contexts is None:  # it has ended
                continue
            contexts.append(session.contexts)
            session.contexts = None
            session.start = Start.UNDER_WAY
            sessions.append(session)
        if not sessions:
            return None
        slots = [session.slot.index for session in sessions]
        return Beginning(sessions=sessions, slots=slots, contexts=contexts)

    def settle(self, beginning: Beginning) -> None:
        """A beginning is over, whatever came of it."""
        for session, contexts in zip(beginning.sessions, beginning.contexts, strict=True):
            session.start = Start.BEGUN
            self._count(session, -nbytes(contexts))

    def drop(self, session: "Session") -> None:
        """A session ends that is due."""
        assert session.contexts is not None
        self._count(session, -nbytes(session.contexts))
        session.contexts = None

    def _count(self, session: "Session", nbytes: int) -> None:
        session.outbox.contexts_nbytes += nbytes
        self.nbytes += nbytes


def nbytes(contexts: Contexts) -> int:
    return sum(array.nbytes for array in contexts.values())
