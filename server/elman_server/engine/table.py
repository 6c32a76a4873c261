"""The table of a model's sessions: their figures in columns, a row for each slot.

What concerns many sessions at once, a push or a step, is a few operations on columns, instead of a
loop over objects that lie all over memory. The scheduler writes it; others read.
"""

from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.snapshot import NEVER, Cadence

if TYPE_CHECKING:
    from elman_server.engine.session import Session

Rows = NDArray[np.intp]
"""Slots' indices: rows of the table and of the state arrays."""
Numbers = NDArray[np.int64]

OPEN, CLOSING, ENDED = range(3)
"""Of `leaving`."""
NOWHERE, NOT_BEGUN, IN_STEP, READ, COMING = 0, -1, -2, -3, -4
"""Of `place`, of who does not wait for a step."""

_FIRST_CAPACITY = 64
_NO_CADENCE = Cadence()


class SessionTable:
    """A row keeps its session's figures until its slot is freed: so of a session that ended in a
    step, until the step is over."""

    __slots__ = (
        "_asked",
        "_cadences",
        "active",
        "due",
        "due_from",
        "due_time",
        "first",
        "fresh",
        "in_flight",
        "last",
        "leavers",
        "leaving",
        "mark",
        "number",
        "parkable",
        "parkables",
        "place",
        "position",
        "receiver",
        "sessions",
        "starters",
        "waiting",
        "watched",
    )

    def __init__(self) -> None:
        self.sessions: list[Session | None] = []
        self.number: Numbers = np.zeros(0, np.int64)
        """What its caller calls it."""
        self.receiver: Numbers = np.zeros(0, np.int64)
        """The `id` of its receiver, and 0 without a session."""
        self.waiting: Numbers = np.zeros(0, np.int64)
        """Elements that wait for a step."""
        self.first: NDArray[np.intp] = np.zeros(0, np.intp)
        self.last: NDArray[np.intp] = np.zeros(0, np.intp)
        """Their entries in the queues."""
        self.in_flight: Numbers = np.zeros(0, np.int64)
        """Elements that are part of a step."""
        self.position: Numbers = np.zeros(0, np.int64)
        """Elements that were answered."""
        self.place: Numbers = np.zeros(0, np.int64)
        """Where it waits for a step: in a line if that is positive, held back if it is less than
        COMING; or one of those."""
        self.leaving: NDArray[np.int8] = np.zeros(0, np.int8)
        self.leavers = 0
        """Sessions in it that are closing, or ended in a step."""
        self.fresh: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """Whether its first step takes the model's initial state instead of its slot's."""
        self.starters = 0
        """Sessions in it that are fresh."""
        self.due: Numbers = np.zeros(0, np.int64)
        self.due_time: NDArray[np.float64] = np.zeros(0)
        self.due_from: Numbers = np.zeros(0, np.int64)
        """From which position on its snapshot is due; or from which time, if from that position."""
        self.watched = 0
        """Sessions in it of which one will be due."""
        self._cadences: dict[int, Cadence] = {}
        """Of rows whose snapshots are taken again and again."""
        self._asked: dict[int, list[int]] = {}
        """Of rows whose snapshots were asked for, of which positions; ascending."""
        self.parkable: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """Whether it may be parked when it is idle."""
        self.parkables = 0
        """Sessions in it that may."""
        self.active: NDArray[np.float64] = np.zeros(0)
        """When a parkable session's last elements were answered; from when on it counts as idle."""
        self.mark: Numbers = np.zeros(0, np.int64)
        """Scratch."""

    def add(self, session: "Session", *, fresh: bool, position: int = 0) -> None:
        row = session.slot.index
        if row >= len(self.sessions):
            self._grow()
        self.sessions[row] = session
        self.number[row] = session.number
        self.receiver[row] = session.receiver.id
        self.waiting[row] = self.in_flight[row] = 0
        self.position[row] = position
        self.due[row], self.due_time[row] = NEVER, inf
        self.place[row] = NOWHERE if fresh else NOT_BEGUN
        self.leaving[row] = OPEN
        self.fresh[row] = fresh
        self.starters += fresh

    def begin(self, row: int) -> None:
        """Its session begins in the initial state."""
        self.place[row] = NOWHERE
        self.fresh[row] = True
        self.starters += 1

    def started(self, rows: Rows) -> None:
        """They have a state in their slots now."""
        self.starters -= int(np.count_nonzero(self.fresh[rows]))
        self.fresh[rows] = False

    def leave(self, row: int, leaving: int) -> None:
        """It takes no elements any more."""
        if self.leaving[row] == OPEN:
            self.leavers += 1
        self.leaving[row] = leaving

    def may_park(self, row: int, idle_from: float) -> None:
        """The session in a row may be parked, and is idle from then on if nothing comes."""
        self.parkable[row], self.active[row] = True, idle_from
        self.parkables += 1

    def idle(self, since: float) -> "list[Session]":
        """Parkable sessions that have had nothing to answer since then."""
        rows = self.parkable & (self.active <= since) & (self.place == NOWHERE)
        return self.of((rows & (self.leaving == OPEN)).nonzero()[0])

    @property
    def longest_idle(self) -> float:
        """Since when a parkable session may have been idle, at the longest; inf without any."""
        return float(np.min(self.active, initial=inf, where=self.parkable))

    def keep(self, row: int, cadence: Cadence, now: float) -> None:
        """Has the session's snapshot taken from now on so often."""
        if cadence != _NO_CADENCE:
            self._cadences[row] = cadence
        # What was asked for before it was known where it begins is of so much later a position.
        self._asked[row] = [int(self.position[row]) + asked for asked in self._asked.get(row, ())]
        self._schedule(row, now)

    def ask(self, row: int, position: int) -> None:
        """Its snapshot is due at a position, which is not before one that was asked for already."""
        asked = self._asked.setdefault(row, [])
        if not asked or asked[-1] < position:
            asked.append(position)
        self.expect(row, min(int(self.due[row]), position), float(self.due_time[row]))

    def asked(self, row: int) -> bool:
        """Whether a snapshot is still to be taken because it was asked for."""
        return bool(self._asked.get(row))

    def taken(self, row: int, now: float) -> None:
        """Its snapshot is taken."""
        position = int(self.position[row])
        self._asked[row] = [asked for asked in self._asked.get(row, ()) if asked > position]
        self._schedule(row, now)

    def _schedule(self, row: int, now: float) -> None:
        """Says when its next one is due, counted from here."""
        if not self._asked[row]:
            del self._asked[row]
        cadence = self._cadences.get(row, _NO_CADENCE)
        position = int(self.position[row])
        after = min(NEVER, position + cadence.elements, *self._asked.get(row, ())[:1])
        self.due_from[row] = position + cadence.least
        self.expect(row, after, now + cadence.seconds)

    def whose_due(self, rows: Rows, now: float) -> NDArray[np.bool_]:
        """Of which of these rows a snapshot is due."""
        position = self.position[rows]
        late = (self.due_time[rows] <= now) & (position >= self.due_from[rows])
        due: NDArray[np.bool_] = (position >= self.due[rows]) | late
        return due

    def expect(self, row: int, position: int, time: float) -> None:
        """From when on its snapshot is due."""
        self.watched -= self._is_watched(row)
        self.due[row], self.due_time[row] = position, time
        self.watched += self._is_watched(row)

    def _is_watched(self, row: int) -> bool:
        return bool(self.due[row] != NEVER or self.due_time[row] != inf)

    def remove(self, row: int) -> None:
        self.sessions[row] = None
        self.receiver[row] = 0
        self.place[row] = NOWHERE
        self.starters -= bool(self.fresh[row])
        self.fresh[row] = False
        self.parkables -= bool(self.parkable[row])
        self.parkable[row] = False
        self._cadences.pop(row, None)
        self._asked.pop(row, None)
        self.expect(row, NEVER, inf)
        self.leavers -= 1
        self.leaving[row] = OPEN

    def of(self, rows: Rows) -> "list[Session]":
        """The sessions in rows that are in use."""
        return [self._at(row) for row in rows.tolist()]

    def distinct(self, rows: Rows) -> bool:
        """Whether no row is named twice."""
        order = np.arange(len(rows))
        self.mark[rows] = order
        return bool(np.count_nonzero(self.mark[rows] == order) == len(rows))

    def _at(self, row: int) -> "Session":
        session = self.sessions[row]
        assert session is not None
        return session

    def _grow(self) -> None:
        more = len(self.sessions) or _FIRST_CAPACITY
        self.sessions += [None] * more
        for name in self.__slots__:
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate([column, np.zeros(more, column.dtype)]))
