"""A session index: finds a caller's sessions in the table by the caller's numbers."""

import numpy as np

from elman_server.engine.arrays import Numbers, Rows
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.sessions.phase import OPEN
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.table import SessionTable

_FIRST_CAPACITY = 16


class SessionIndex:
    """Finds many sessions at once. Entries may be out of date, so the table decides."""

    __slots__ = ("_length", "_numbers", "_outbox", "_rows", "_table")

    def __init__(self, table: SessionTable, outbox: Outbox) -> None:
        self._table = table
        self._outbox = outbox
        self._numbers: Numbers = np.zeros(_FIRST_CAPACITY, np.int64)
        """The caller's numbers for the sessions, ascending."""
        self._rows: Rows = np.zeros(_FIRST_CAPACITY, np.intp)
        self._length = 0

    def add(self, session: Session) -> None:
        """Adds a session. Numbers must come in ascending order."""
        if self._length == len(self._numbers):
            self._make_room()
        self._numbers[self._length] = session.number
        self._rows[self._length] = session.slot.index
        self._length += 1

    def find(self, numbers: Numbers) -> tuple[Receiver, Rows] | None:
        """Returns the sessions' receiver and rows. `None` unless all are open sessions of this
        caller, take elements and have a common receiver."""
        if not self._length:
            return None
        index = self._numbers[: self._length].searchsorted(numbers)
        rows = self._rows.take(index, mode="clip")
        table = self._table
        receiver = table.receivers[int(rows[0])]
        if receiver is None or receiver.outbox is not self._outbox:
            return None
        found = (table.number[rows] == numbers) & (table.receiver[rows] == receiver.id)
        if table.leavers:
            found &= table.stage[rows] == OPEN
        if np.count_nonzero(found) < len(rows):
            return None
        return receiver, rows

    def _make_room(self) -> None:
        """Drops ended sessions, so that the index grows with the sessions open at a time, not with
        all sessions ever opened."""
        numbers, rows = self._numbers, self._rows
        here = self._table.number[rows] == numbers
        self._length = int(here.sum())
        capacity = max(_FIRST_CAPACITY, 2 * self._length)
        self._numbers, self._rows = np.zeros(capacity, np.int64), np.zeros(capacity, np.intp)
        self._numbers[: self._length] = numbers[here]
        self._rows[: self._length] = rows[here]
