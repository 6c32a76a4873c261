"""The ready queue: sessions waiting for a step, in lines by their number of elements."""

from itertools import count

import numpy as np

from elman_server.engine.arrays import Numbers, Rows
from elman_server.engine.sessions.phase import QUEUED
from elman_server.engine.sessions.table import SessionTable

_FIRST_CAPACITY = 64


class ReadyQueue:
    """Ready sessions in lines. A session with `2^k` to `2^(k+1) - 1` elements on entry waits in
    line `k`. A session with more elements waits in the last line."""

    __slots__ = ("_numbers", "_ready", "_table", "_window")

    def __init__(self, table: SessionTable, longest_chunk: int) -> None:
        self._table = table
        self._ready = [_Line(table) for _ in range(longest_chunk.bit_length())]
        self._numbers = count(1)
        self._window: list[tuple[_Line, int]] = []

    def __len__(self) -> int:
        """Number of lines."""
        return len(self._ready)

    @property
    def sessions(self) -> int:
        """Sessions in the lines, including early leavers not removed yet."""
        return sum(map(len, self._ready))

    @property
    def elements(self) -> int:
        """Elements of the sessions in the lines: a lower bound."""
        return sum(len(line) << exponent for exponent, line in enumerate(self._ready))

    def new_number(self) -> int:
        """Returns a queue number never used before."""
        return next(self._numbers)

    def append(self, rows: Rows, waiting: Numbers) -> None:
        """Adds sessions with `waiting[i]` elements each."""
        self._table.phase[rows] = QUEUED
        self._table.queue_number[rows] = number = self.new_number()
        most = int(np.maximum.reduce(waiting))
        line = self._line(most)
        if most == 1 or self._line(int(np.minimum.reduce(waiting))) is line:
            line.append(rows, number)
            return
        # The exponent of a float equals the bit length of the whole number.
        lengths = np.minimum(np.frexp(waiting)[1], len(self._ready))
        for length in np.unique(lengths).tolist():
            self._ready[length - 1].append(rows[lengths == length], number)

    def append_one(self, row: int, waiting: int) -> None:
        """Adds a session with `waiting` elements."""
        self._table.phase[row] = QUEUED
        self._table.queue_number[row] = number = self.new_number()
        self._line(waiting).append_one(row, number)

    def of(self, line: int) -> int:
        """Number of sessions in a line."""
        return len(self._ready[line])

    def front(self, first: int, most: int) -> Rows:
        """Returns the first sessions of line `first`, then of the lines after it, at most
        `most`."""
        found: list[Rows] = []
        self._window = []
        for line in (*self._ready[first:], *self._ready[:first]):
            if len(line) and most:
                rows = line.front(most)
                most -= len(rows)
                found.append(rows)
                self._window.append((line, len(rows)))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def leave(self, count: int) -> None:
        """Removes the first `count` sessions of the last `front`."""
        for line, length in self._window:
            leaving = min(length, count)
            line.leave(leaving)
            count -= leaving

    def take_one(self, line: int) -> int | None:
        """Removes and returns the first session of a line; `None` if all sessions have left."""
        return self._ready[line].take_one()

    def _line(self, waiting: int) -> "_Line":
        return self._ready[min(waiting.bit_length(), len(self._ready)) - 1]


class _Line:
    """A first-in, first-out line. After leaving early, a session has a different queue number in
    the table."""

    __slots__ = ("_numbers", "_rows", "_start", "_stop", "_table")

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._rows: Rows = np.zeros(_FIRST_CAPACITY, np.intp)
        self._numbers: Numbers = np.zeros(_FIRST_CAPACITY, np.int64)
        self._start = self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    def append(self, rows: Rows, number: int) -> None:
        """Adds sessions under a queue number used for no other sessions."""
        count = len(rows)
        if self._stop + count > len(self._rows):
            self._make_room(count)
        stop = self._stop + count
        self._rows[self._stop : stop] = rows
        self._numbers[self._stop : stop] = number
        self._stop = stop

    def append_one(self, row: int, number: int) -> None:
        if self._stop == len(self._rows):
            self._make_room(1)
        self._rows[self._stop] = row
        self._numbers[self._stop] = number
        self._stop += 1

    def front(self, most: int) -> Rows:
        """Returns the first sessions, at most `most`."""
        while True:
            start, stop = self._start, min(self._start + most, self._stop)
            rows, numbers = self._rows[start:stop], self._numbers[start:stop]
            here = self._table.queue_number[rows] == numbers
            absent = len(rows) - int(np.count_nonzero(here))
            if not absent:
                return rows.copy()
            # Drop absent sessions: the present sessions move up.
            self.leave(absent)
            self._rows[start + absent : stop] = rows[here]
            self._numbers[start + absent : stop] = numbers[here]

    def take_one(self) -> int | None:
        while self._start < self._stop:
            row, number = int(self._rows[self._start]), self._numbers[self._start]
            self.leave(1)
            if self._table.queue_number[row] == number:
                return row
        return None

    def leave(self, count: int) -> None:
        """Removes the first `count` sessions."""
        self._start += count
        if self._start == self._stop:
            self._start = self._stop = 0

    def _make_room(self, more: int) -> None:
        length = len(self)
        rows, numbers = self._rows, self._numbers
        own = slice(self._start, self._stop)
        if 2 * (length + more) > len(rows):
            capacity = 2 * (length + more)
            self._rows, self._numbers = np.zeros(capacity, np.intp), np.zeros(capacity, np.int64)
        self._rows[:length] = rows[own].copy()
        self._numbers[:length] = numbers[own].copy()
        self._start, self._stop = 0, length
