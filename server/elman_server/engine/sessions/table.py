"""The table of a model's sessions: figures in columns, a row for each slot.

A push or a step concerns many sessions at once. With columns the cost is a few array operations,
instead of a loop over objects scattered in memory. Only the scheduler and its queues write to the
table.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Numbers, Rows
from elman_server.engine.outboxes.outbox import Receiver
from elman_server.engine.sessions.phase import IDLE, OPEN, Phase, Stage
from elman_server.engine.sessions.snapshot import NEVER, Cadence

_FIRST_CAPACITY = 64
_NO_CADENCE = Cadence()


class SessionTable:
    """Figures of sessions by row. A row stays in use until its slot is freed: if a session ends
    during a step, until the step is over."""

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
        "mark",
        "number",
        "parkable",
        "parkables",
        "phase",
        "position",
        "queue_number",
        "receiver",
        "receivers",
        "stage",
        "starters",
        "waiting",
        "watched",
    )

    def __init__(self) -> None:
        self.receivers: list[Receiver | None] = []
        """Receiver of the session's predictions; `None` without a session."""
        self.number: Numbers = np.zeros(0, np.int64)
        """The caller's number for the session."""
        self.receiver: Numbers = np.zeros(0, np.int64)
        """The `id` of the session's receiver; 0 without a session."""
        self.waiting: Numbers = np.zeros(0, np.int64)
        """Elements waiting for a step."""
        self.first: NDArray[np.intp] = np.zeros(0, np.intp)
        self.last: NDArray[np.intp] = np.zeros(0, np.intp)
        """First and last entry of the session's queue in `Queues`."""
        self.in_flight: Numbers = np.zeros(0, np.int64)
        """Elements in a step: running, or made ahead."""
        self.position: Numbers = np.zeros(0, np.int64)
        """Elements answered."""
        self.phase: NDArray[np.int8] = np.zeros(0, np.int8)
        """A `Phase`. Zero is VACANT."""
        self.queue_number: Numbers = np.zeros(0, np.int64)
        """In the phases QUEUED and HELD: number of the entry that stands for the session in the
        ready queue, or among the held sessions. Never the number of another entry of the row."""
        self.stage: NDArray[np.int8] = np.zeros(0, np.int8)
        """A `Stage`. Zero is OPEN."""
        self.leavers = 0
        """Closing sessions in the table, and sessions that ended during a step."""
        self.fresh: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """Whether the first step takes the model's initial state instead of the slot's."""
        self.starters = 0
        """Fresh sessions in the table."""
        self.due: Numbers = np.zeros(0, np.int64)
        self.due_time: NDArray[np.float64] = np.zeros(0)
        self.due_from: Numbers = np.zeros(0, np.int64)
        """A snapshot is due from position `due` on, and also from time `due_time` on if the
        position is at least `due_from`."""
        self.watched = 0
        """Sessions in the table with a snapshot due at some time."""
        self._cadences: dict[int, Cadence] = {}
        """Cadence by row, for sessions with regular snapshots."""
        self._asked: dict[int, list[int]] = {}
        """Positions of requested snapshots by row, ascending."""
        self.parkable: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """Whether the session may be parked when idle."""
        self.parkables = 0
        """Parkable sessions in the table."""
        self.active: NDArray[np.float64] = np.zeros(0)
        """Start of a parkable session's idle time: when its last elements were answered."""
        self.mark: Numbers = np.zeros(0, np.int64)
        """Scratch."""

    def add(self, row: int, *, number: int, receiver: Receiver) -> None:
        """Adds a session without a state."""
        if row >= len(self.receivers):
            self._grow()
        self.receivers[row] = receiver
        self.number[row] = number
        self.receiver[row] = receiver.id
        self.waiting[row] = self.in_flight[row] = 0
        self.position[row] = 0
        self.due[row], self.due_time[row] = NEVER, inf
        self.stage[row] = OPEN

    def begin(self, row: int) -> None:
        """Puts a row's session into the model's initial state."""
        self.phase[row] = IDLE
        self.fresh[row] = True
        self.starters += 1

    def move(self, row: int, phase: Phase) -> None:
        """Moves a session to a phase without a queue number."""
        self.phase[row] = int(phase)
        self.queue_number[row] = 0

    def started(self, rows: Rows) -> None:
        """Marks rows whose slots now hold a state."""
        self.starters -= int(np.count_nonzero(self.fresh[rows]))
        self.fresh[rows] = False

    def leave(self, row: int, stage: Stage) -> None:
        """Raises a row's stage when its session takes no more elements."""
        before = int(self.stage[row])
        self.leavers += before == OPEN
        self.stage[row] = max(before, int(stage))

    def may_park(self, row: int, idle_from: float) -> None:
        """Makes a row's session parkable; idle from `idle_from` on if no element comes."""
        self.parkable[row], self.active[row] = True, idle_from
        self.parkables += 1

    def idle(self, since: float) -> Rows:
        """Returns the rows of parkable sessions without work since the time `since`."""
        idle = self.parkable & (self.active <= since) & (self.phase == IDLE)
        rows: Rows = (idle & (self.stage == OPEN)).nonzero()[0]
        return rows

    @property
    def longest_idle(self) -> float:
        """Earliest start of a parkable session's idle time; inf without parkable sessions."""
        return float(np.min(self.active, initial=inf, where=self.parkable))

    def keep(self, row: int, cadence: Cadence, now: float) -> None:
        """Has a row's snapshots taken at `cadence` from now on."""
        if cadence != _NO_CADENCE:
            self._cadences[row] = cadence
        # Snapshots requested before the first position was known were counted from 0.
        self._asked[row] = [int(self.position[row]) + asked for asked in self._asked.get(row, ())]
        self._schedule(row, now)

    def ask(self, row: int, position: int) -> None:
        """Requests a snapshot at a position, which must not precede an earlier request."""
        asked = self._asked.setdefault(row, [])
        if not asked or asked[-1] < position:
            asked.append(position)
        self.expect(row, min(int(self.due[row]), position), float(self.due_time[row]))

    def asked(self, row: int) -> bool:
        """Whether a requested snapshot is still to be taken."""
        return bool(self._asked.get(row))

    def taken(self, row: int, now: float) -> None:
        """Notes a taken snapshot and schedules the next."""
        position = int(self.position[row])
        self._asked[row] = [asked for asked in self._asked.get(row, ()) if asked > position]
        self._schedule(row, now)

    def _schedule(self, row: int, now: float) -> None:
        """Schedules the next snapshot, counted from the present position and time."""
        if not self._asked[row]:
            del self._asked[row]
        cadence = self._cadences.get(row, _NO_CADENCE)
        position = int(self.position[row])
        after = min(NEVER, position + cadence.elements, *self._asked.get(row, ())[:1])
        self.due_from[row] = position + cadence.least
        self.expect(row, after, now + cadence.seconds)

    def whose_due(self, rows: Rows, now: float) -> NDArray[np.bool_]:
        """Whether a snapshot is due, for each of the rows."""
        position = self.position[rows]
        late = (self.due_time[rows] <= now) & (position >= self.due_from[rows])
        due: NDArray[np.bool_] = (position >= self.due[rows]) | late
        return due

    def expect(self, row: int, position: int, time: float) -> None:
        """Sets when a row's snapshot is due."""
        self.watched -= self._is_watched(row)
        self.due[row], self.due_time[row] = position, time
        self.watched += self._is_watched(row)

    def _is_watched(self, row: int) -> bool:
        return bool(self.due[row] != NEVER or self.due_time[row] != inf)

    def remove(self, row: int) -> None:
        self.receivers[row] = None
        self.receiver[row] = 0
        self.move(row, Phase.VACANT)
        self.starters -= bool(self.fresh[row])
        self.fresh[row] = False
        self.parkables -= bool(self.parkable[row])
        self.parkable[row] = False
        self._cadences.pop(row, None)
        self._asked.pop(row, None)
        self.expect(row, NEVER, inf)
        self.leavers -= 1
        self.stage[row] = OPEN

    def distinct(self, rows: Rows) -> bool:
        """Whether no row occurs twice."""
        order = np.arange(len(rows))
        self.mark[rows] = order
        return bool(np.count_nonzero(self.mark[rows] == order) == len(rows))

    def receiver_of(self, row: int) -> Receiver:
        """Returns the receiver of a row in use."""
        receiver = self.receivers[row]
        assert receiver is not None
        return receiver

    def _grow(self) -> None:
        more = len(self.receivers) or _FIRST_CAPACITY
        self.receivers += [None] * more
        for name in self.__slots__:
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate([column, np.zeros(more, column.dtype)]))
