"""The sessions' queues: elements waiting for a step.

The elements of all sessions lie in shared columns, with one entry for each element. The entries of
a session are linked. So pushing a frame, or taking a step, costs a few operations on columns,
however many sessions take part. A frame's elements are neighbours. Taken entries stay empty until
the columns are full; then the waiting entries are compacted.
"""

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Elements, Numbers, Rows, Times
from elman_server.engine.sessions.table import SessionTable

_Entries = NDArray[np.intp]

_FIRST_NBYTES, _FIRST_ENTRIES = 1 << 20, (16, 1024)
"""First size of the columns: bytes of elements, and the least and the most entries."""
_FIRST = np.zeros(1, np.intp)
ENTRY_NBYTES = 32
"""Bytes of an entry, without the element."""
_SPARSE = 8
"""Columns shrink when at most one in this many entries is in use."""


class Queues:
    """Queues by row of the session table. Keeps the table's columns `waiting`, `first` and
    `last`."""

    __slots__ = (
        "_after",
        "_elements",
        "_first_capacity",
        "_length",
        "_run",
        "_stop",
        "_table",
        "_times",
        "_waits",
    )

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._length = 0
        self._stop = 0
        """First of the empty entries at the end of the columns."""
        self._elements: Elements | None = None
        self._first_capacity = 0
        """Entries; known after the first elements."""
        self._make_columns(0)

    def __len__(self) -> int:
        """Elements of all sessions."""
        return self._length

    def append(self, row: int, elements: Elements, now: float) -> None:
        """Queues a session's elements, at least one."""
        count = len(elements)
        start = self._take_in(elements, now)
        stop = start + count
        if count == 1:
            self._run[start] = 1
        else:
            self._run[start:stop] = np.arange(count, 0, -1)
        table = self._table
        if table.waiting[row]:
            self._after[table.last[row]] = start
        else:
            table.first[row] = start
        table.last[row] = stop - 1
        table.waiting[row] += count

    def extend(self, rows: Rows, counts: Numbers, elements: Elements, now: float) -> Numbers:
        """Queues `counts[i]` elements, at least one, for each row `rows[i]`. Rows are distinct.
        Returns how many elements now wait for each row."""
        start = self._take_in(elements, now)
        stop = start + len(elements)
        if len(elements) == len(rows):
            starts = last = np.arange(start, stop)
            self._run[start:stop] = 1
        else:
            stops = counts.cumsum()
            stops += start
            starts, last = stops - counts, stops - 1
            self._run[start:stop] = np.repeat(stops, counts) - np.arange(start, stop)
        table = self._table
        waiting = table.waiting[rows]
        behind = waiting > 0
        if np.count_nonzero(behind):
            self._after[table.last[rows[behind]]] = starts[behind]
            first = ~behind
            table.first[rows[first]] = starts[first]
        else:
            table.first[rows] = starts
        table.last[rows] = last
        waiting += counts
        table.waiting[rows] = waiting
        return waiting

    def take(self, rows: Rows, counts: Numbers) -> tuple[Elements, Times]:
        """Takes the first `counts[i]` elements of each `rows[i]`, row after row. Each queue must
        hold as many."""
        table = self._table
        entries, table.first[rows] = self._follow(table.first[rows], counts)
        table.waiting[rows] -= counts
        return self._take_out(entries)

    def take_all(self, rows: Rows, counts: Numbers) -> tuple[Elements, Times]:
        """Takes all elements of each `rows[i]`; `counts[i]` must be their number."""
        table = self._table
        first = table.first[rows]
        table.waiting[rows] = 0
        if self._are_neighbours(first, counts):
            return self._take_out(slice(int(first[0]), int(first[-1] + counts[-1])))
        return self._take_out(self._follow(first, counts)[0])

    def take_of(self, row: int, count: int) -> tuple[Elements, Times]:
        """Takes the first `count` elements of a row."""
        table = self._table
        first = int(table.first[row])
        run = int(self._run[first])
        if run < count:
            return self.take(np.array([row]), np.array([count]))
        stop = first + count
        table.first[row] = stop if count < run else self._after[stop - 1]
        table.waiting[row] -= count
        return self._take_out(slice(first, stop))

    def clear(self, row: int) -> None:
        """Drops the queue of a row."""
        table = self._table
        if table.waiting[row]:
            entries, _ = self._follow(table.first[row : row + 1], table.waiting[row : row + 1])
            table.waiting[row] = 0
            self._take_out(entries)

    def _take_in(self, elements: Elements, now: float) -> int:
        """Puts elements into new entries and returns the first entry."""
        if self._elements is None:
            least, most = _FIRST_ENTRIES
            nbytes = max(1, elements.nbytes // len(elements))
            self._first_capacity = max(least, min(most, _FIRST_NBYTES // nbytes))
            self._elements = elements[:0]
        count = len(elements)
        if self._stop + count > len(self._waits):
            self._move_together(count)
        start, stop = self._stop, self._stop + count
        self._elements[start:stop] = elements
        self._times[start:stop] = now
        self._waits[start:stop] = True
        self._stop = stop
        self._length += count
        return start

    def _follow(self, entry: _Entries, counts: Numbers) -> tuple[_Entries, _Entries]:
        """Returns the entries of `counts[i]` elements from `entry[i]` on, and for each queue the
        next entry. The next entry is meaningless at the end of a queue."""
        runs = self._run[entry]
        last = entry + counts
        last -= 1
        if not np.count_nonzero(runs < counts):
            following = np.where(runs == counts, self._after[last], last + 1)
            return _spread(entry, counts, counts.cumsum()), following
        ends = counts.cumsum()
        entries = np.empty(int(ends[-1]), np.intp)
        following = np.empty_like(entry)
        rows, to, left = np.arange(len(entry)), ends - counts, counts
        while len(rows):
            runs = self._run[entry]
            here = np.minimum(runs, left)
            stops = here.cumsum()
            entries[_spread(to, here, stops)] = _spread(entry, here, stops)
            last = entry + here - 1
            next_entry = np.where(here == runs, self._after[last], last + 1)
            following[rows] = next_entry
            (more,) = (here < left).nonzero()
            rows, to, left = rows[more], (to + here)[more], (left - here)[more]
            entry = next_entry[more]
        return entries, following

    def _are_neighbours(self, entry: _Entries, counts: Numbers) -> bool:
        """Whether the queues' elements are neighbours in the columns, queue after queue. True for
        example when a single frame pushed all elements of a step."""
        ends = entry + counts
        if ends[-1] - entry[0] > len(entry) and np.count_nonzero(self._run[entry] < counts):
            return False
        return bool(np.count_nonzero(ends[:-1] == entry[1:]) == len(entry) - 1)

    def _take_out(self, entries: _Entries | slice) -> tuple[Elements, Times]:
        """Empties entries and returns copies of the elements and times."""
        assert self._elements is not None
        taken = self._elements[entries], self._times[entries]
        if isinstance(entries, slice):
            taken = taken[0].copy(), taken[1].copy()
        self._length -= len(taken[1])
        self._waits[entries] = False
        capacity = len(self._waits)
        if capacity > self._first_capacity and _SPARSE * self._length <= capacity:
            self._move_together(0)
        elif not self._length:
            self._stop = 0
        return taken

    def _make_columns(self, capacity: int) -> None:
        self._times = np.empty(capacity, np.float64)
        self._waits = np.zeros(capacity, np.bool_)
        """Whether an entry is in use."""
        self._run = np.empty(capacity, np.intp)
        """Length of the run from an entry on: neighbouring entries of the same queue, the entry
        included."""
        self._after = np.zeros(capacity, np.intp)
        """Next entry of the queue after a run. Defined for the last entry of a run alone, and
        meaningless at the end of the queue."""
        self._stop = 0

    def _move_together(self, more: int) -> None:
        """Compacts the columns and makes room for `more` entries. Runs stay runs, because they are
        emptied from the front."""
        assert self._elements is not None
        stop, table = self._stop, self._table
        elements, times, runs, after = self._elements, self._times, self._run, self._after
        waits = self._waits[:stop]
        (kept,) = waits.nonzero()
        moved_to = waits.cumsum() - 1
        # Twice the needed size: the cost of moving is then shared by as many new elements.
        self._make_columns(max(self._first_capacity, 2 * (len(kept) + more)))
        self._stop = len(kept)
        own = slice(len(kept))
        self._elements = np.empty((len(self._waits), *elements.shape[1:]), elements.dtype)
        if len(kept) == stop:
            self._elements[own] = elements[own]
        else:
            # "clip" writes straight into `out`; the default mode would make a copy first.
            elements.take(kept, axis=0, out=self._elements[own], mode="clip")
        self._times[own] = times[kept]
        self._waits[own] = True
        self._run[own] = runs[kept]
        if len(kept):
            self._after[own] = moved_to.take(after[kept], mode="clip")
            (rows,) = table.waiting.nonzero()
            table.first[rows] = moved_to[table.first[rows]]
            table.last[rows] = moved_to[table.last[rows]]


def gathered(rows: Rows, counts: Numbers, elements: Elements) -> tuple[Rows, Numbers, Elements]:
    """Returns distinct rows, with all elements of a row together in order."""
    order = rows.argsort(kind="stable")
    ordered, own = rows[order], counts[order]
    starts = np.concatenate([_FIRST, (ordered[1:] != ordered[:-1]).nonzero()[0] + 1])
    entries = _spread((counts.cumsum() - counts)[order], own, own.cumsum())
    return ordered[starts], np.add.reduceat(own, starts), elements[entries]


def _spread(starts: _Entries, counts: Numbers, ends: Numbers) -> _Entries:
    """Returns the ranges of `counts[i]` numbers from `starts[i]` on, joined. `ends` are the
    cumulative sums of `counts`."""
    total = int(ends[-1])
    if total == len(starts):
        return starts
    numbers: _Entries = np.arange(total)
    numbers += np.repeat(starts - (ends - counts), counts)
    return numbers
