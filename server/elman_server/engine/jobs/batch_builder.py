"""The batch builder: fills batches from the ready queue and the sessions' queues.

Chooses the number of rows and the chunk that answer the most elements per second. Holds back the
sessions of a caller that does not read. Used by the scheduler alone.
"""

import numpy as np

from elman_server.engine.arrays import Elements, Numbers, Rows, Times
from elman_server.engine.jobs.batch import Batch, Part
from elman_server.engine.limits import Seconds, StepLimits, StepSizer
from elman_server.engine.queues.element_queues import Queues
from elman_server.engine.queues.holds import Holds
from elman_server.engine.queues.ready_queue import ReadyQueue
from elman_server.engine.sessions.phase import STEPPING
from elman_server.engine.sessions.table import SessionTable


class BatchBuilder:
    def __init__(
        self,
        limits: StepLimits,
        seconds: Seconds,
        *,
        table: SessionTable,
        queues: Queues,
        ready: ReadyQueue,
        holds: Holds,
    ) -> None:
        """`seconds(rows, chunk)` estimates the model's seconds for a step."""
        self._limits = limits
        self._sizer = StepSizer(limits, seconds)
        self._table = table
        self._queues = queues
        self._ready = ready
        self._rows = limits.max_batch_size
        """Rows of the last step shared by several sessions."""
        self._holds = holds

    @property
    def full(self) -> bool:
        """Whether enough sessions are ready to make the next step ahead of time: as many as shared
        the last step, or enough elements to fill a step."""
        limits, ready = self._limits, self._ready
        if ready.sessions >= min(limits.max_batch_size, self._rows):
            return True
        return ready.elements >= limits.max_step_elements

    def take(self, first: int, idle: bool) -> Batch | None:
        """Takes the best batch out of the queues, with the sessions of line `first` first. `None`
        if no session is ready. `idle`: whether the model had no work before."""
        table = self._table
        while True:
            if self._ready.sessions == 1:
                return self._take_one(first)
            rows = self._ready.front(first, self._limits.max_batch_size)
            if not len(rows):
                return None
            ids = table.receiver[rows]
            alike = np.count_nonzero(ids == ids[0]) == len(ids)
            if not self._hold(rows, ids, alike):
                break
        waiting = table.waiting[rows]
        count, chunk = self._sizer.fit(waiting)
        if idle and count == self._ready.sessions:
            count = self._sizer.first_part(count, chunk)
        self._ready.leave(count)
        self._rows = count
        if count < len(rows):
            rows, waiting, ids = rows[:count], waiting[:count], ids[:count]
        if not alike:
            order = ids.argsort(kind="stable")
            rows, waiting, ids = rows[order], waiting[order], ids[order]
        parts = self._parts(rows, ids[:1] if alike else ids)
        most = int(np.maximum.reduce(waiting))
        if most <= chunk:
            return self._batch(rows, waiting, most, parts, *self._queues.take_all(rows, waiting))
        counts = np.minimum(waiting, chunk)
        return self._batch(rows, counts, chunk, parts, *self._queues.take(rows, counts))

    def _take_one(self, line: int) -> Batch | None:
        """Takes a batch if at most one session is ready, as for a caller without multiplexing."""
        row = self._ready.take_one(line)
        if row is None:
            return None
        receiver = self._table.receiver_of(row)
        if receiver.outbox.full:
            rows = np.array([row])
            self._hold(rows, self._table.receiver[rows], True)
            return None
        table = self._table
        waiting = int(table.waiting[row])
        count = self._sizer.fit_one(waiting)
        table.phase[row] = STEPPING
        table.in_flight[row] = count
        receiver.outbox.pending -= count
        elements, times = self._queues.take_of(row, count)
        return Batch(
            table=table,
            slots=np.array([row]),
            counts=np.array([count]),
            chunk=count,
            elements=elements,
            times=times,
            parts=[Part(receiver, 0, 1)],
            fresh=[0] if table.starters and table.fresh[row] else [],
            outputs=receiver.selection.names,
        )

    def _hold(self, rows: Rows, ids: Numbers, alike: bool) -> bool:
        """Takes rows with a full outbox out of the ready queue. Returns False if all outboxes have
        room."""
        held = False
        each = rows[:1] if alike else rows[np.unique(ids, return_index=True)[1]]
        for row in each.tolist():
            receiver = self._table.receiver_of(row)
            if receiver.outbox.full:
                own = rows[ids == receiver.id]
                self._holds.add_rows(receiver.outbox, own)
                held = True
        return held

    def _parts(self, rows: Rows, ids: Numbers) -> list[Part]:
        """Returns the parts of rows sorted by receiver. A single id in `ids` stands for all
        rows."""
        if len(ids) == 1:
            return [Part(self._table.receiver_of(int(rows[0])), 0, len(rows))]
        stops = [*((ids[1:] != ids[:-1]).nonzero()[0] + 1).tolist(), len(rows)]
        starts = [0, *stops[:-1]]
        return [
            Part(self._table.receiver_of(row), start, stop)
            for row, start, stop in zip(rows[starts].tolist(), starts, stops, strict=True)
        ]

    def _batch(
        self,
        rows: Rows,
        counts: Numbers,
        chunk: int,
        parts: list[Part],
        elements: Elements,
        times: Times,
    ) -> Batch:
        table = self._table
        table.phase[rows] = STEPPING
        table.in_flight[rows] = counts
        names: frozenset[str] = frozenset()
        totals = [len(elements)]
        if len(parts) > 1:
            totals = np.add.reduceat(counts, [part.start for part in parts]).tolist()
        for part, total in zip(parts, totals, strict=True):
            part.receiver.outbox.pending -= total
            names |= part.receiver.selection.names
        return Batch(
            table=table,
            slots=rows,
            counts=counts,
            chunk=chunk,
            elements=elements,
            times=times,
            parts=parts,
            fresh=table.fresh[rows].nonzero()[0].tolist() if table.starters else [],
            outputs=names,
        )
