"""The lines in which sessions wait for a step, in groups that came together."""

from collections import deque
from itertools import count

import numpy as np

from elman_server.engine.arrivals import Runs
from elman_server.engine.outbox import Receiver
from elman_server.engine.table import Numbers, Rows, SessionTable

_ids = count(1)


class Group:
    """Sessions with what each of them puts into its next step. One that ended since has another
    `place` in the table."""

    __slots__ = ("chunk", "counts", "id", "receiver", "rows", "runs", "size")

    def __init__(
        self,
        receiver: Receiver,
        rows: Rows,
        counts: Numbers,
        runs: Runs,
        *,
        chunk: int,
        id: int = 0,
    ) -> None:
        self.receiver = receiver
        """Of them all."""
        self.rows = rows
        self.counts = counts
        """Elements of each."""
        self.runs = runs
        """The elements, row after row."""
        self.chunk = chunk
        """The largest count, or more."""
        self.size = len(rows)
        self.id = id or next(_ids)

    def split(self, rows: int) -> "tuple[Group, Group]":
        """The first so many, and the others."""
        before, after = self.runs.split(int(np.add.reduce(self.counts[:rows])))
        return self._part(slice(rows), before), self._part(slice(rows, None), after)

    def present(self, table: SessionTable) -> "Group":
        """Those who have not ended."""
        if self.size == 1 and table.place[self.rows[0]] == self.id:
            return self
        here = table.place[self.rows] == self.id
        if np.count_nonzero(here) == self.size:
            return self
        (kept,) = here.nonzero()
        return self._part(kept, self.runs.rows(self.counts, kept))

    def _part(self, rows: "slice | Rows", runs: Runs) -> "Group":
        counts = self.counts[rows]
        return Group(self.receiver, self.rows[rows], counts, runs, chunk=self.chunk, id=self.id)


class Line:
    """First in, first out."""

    __slots__ = ("_groups", "_table", "length")

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._groups: deque[Group] = deque()
        self.length = 0
        """Sessions that stand in it, with those that ended and were not come to yet."""

    def append(self, group: Group) -> None:
        self._groups.append(group)
        self.length += group.size

    def pop(self) -> Group | None:
        """The next group of whom somebody waits still, without the others."""
        while self._groups:
            group = self._groups.popleft()
            self.length -= group.size
            group = group.present(self._table)
            if group.size:
                return group
        return None

    def put_back(self, group: Group) -> None:
        """The group that was popped last, or a part of it."""
        self._groups.appendleft(group)
        self.length += group.size
