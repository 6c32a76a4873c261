"""The scheduler: which sessions share the next step, and with how many elements each.

Pure and synchronous: time is an argument, slots are numbers, and what a step computes is not its
business. A session that has `2^k` to `2^(k+1) - 1` elements when it lines up stands in line `k`. A
step is filled from one line after another, and they take turns at being the first: so the head of a
line waits for at most one bounded step of each other line, however much others have pushed. How
many of those who wait share a step, and of what chunk, is what answers the most elements a second.
Sessions that have yet to begin stand in a line of their own.
"""

from collections.abc import Sequence

import numpy as np

from elman_server.engine.batch import Batch, Part
from elman_server.engine.beginning import Beginners, Beginning, Contexts, Start
from elman_server.engine.delivery import Selection
from elman_server.engine.limits import Fitting, Seconds, StepLimits
from elman_server.engine.lines import Lines
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.queues import Elements, Queues, Times, gathered
from elman_server.engine.session import CANCELLED, FINISHED, Ending, Session
from elman_server.engine.state_pool import StatePool
from elman_server.engine.table import (
    CLOSING,
    COMING,
    ENDED,
    IN_STEP,
    NOWHERE,
    Numbers,
    Rows,
    SessionTable,
)


class Scheduler:
    """Owns the sessions of one model, their queues and their slots."""

    def __init__(
        self, limits: StepLimits, seconds: Seconds = lambda rows, chunk: rows * chunk * 1e-6
    ) -> None:
        """`seconds(rows, chunk)` estimates how long the model computes a step."""
        self.limits = limits
        self.pool = StatePool()
        self.table = SessionTable()
        self.sessions: set[Session] = set()
        """All that have not ended."""
        self._queues = Queues(self.table)
        self._fitting = Fitting(limits, seconds)
        self._lines = Lines(self.table, limits.longest_chunk)
        self._beginners = Beginners()
        self._turn = 0
        self._rows = limits.max_batch_size
        """Of the last step that several shared."""
        self._held: set[Outbox] = set()

    @property
    def pending(self) -> int:
        """Elements that wait for a step, of all sessions."""
        return len(self._queues)

    @property
    def backlog(self) -> int:
        """Elements that wait for a step and not for their caller to read."""
        if not self._held:
            return self.pending
        return self.pending - sum(outbox.pending for outbox in self._held)

    @property
    def context_nbytes(self) -> int:
        """Bytes of the contexts of sessions that have not begun."""
        return self._beginners.nbytes

    def add(
        self,
        *,
        id: str,
        number: int,
        outbox: Outbox,
        selection: Selection,
        contexts: Contexts | None = None,
    ) -> Session:
        """A new session. With contexts, its elements wait until it has begun from them."""
        session = Session(
            id=id,
            number=number,
            receiver=outbox.receiver(selection),
            slot=self.pool.allocate(),
            table=self.table,
        )
        self.sessions.add(session)
        self.table.add(session, fresh=contexts is None)
        if contexts is not None:
            self._beginners.add(session, contexts)
        return session

    def push(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, now: float
    ) -> int:
        """Queues elements `[sum(counts), *shape]`: `counts[i]` for `sessions[i]`, in their order.

        The sessions have the same outbox, and none is closing or has ended. Returns the largest
        number of elements that one of them now has waiting or in a step.
        """
        table = self.table
        start = most = 0
        newcomers: list[int] = []
        for session, count in zip(sessions, counts, strict=True):
            if not count:
                continue
            row, stop = session.slot.index, start + count
            self._queues.append(row, elements[start:stop], now)
            start = stop
            session.outbox.pending += count
            most = max(most, int(table.waiting[row]) + int(table.in_flight[row]))
            if table.place[row] == NOWHERE:
                # Others of its elements may follow.
                table.place[row] = COMING
                newcomers.append(row)
        if len(newcomers) == 1:
            self._lines.append_one(newcomers[0], int(table.waiting[newcomers[0]]))
        elif newcomers:
            rows = np.array(newcomers)
            self._lines.append(rows, table.waiting[rows])
        return most

    def push_rows(
        self, receiver: Receiver, rows: Rows, counts: Numbers, elements: Elements, now: float
    ) -> int:
        """The same for many sessions with the same receiver, named by their slots' indices, with
        elements for each."""
        table = self.table
        if not table.distinct(rows):
            rows, counts, elements = gathered(rows, counts, elements)
        waiting = self._queues.extend(rows, counts, elements, now)
        receiver.outbox.pending += len(elements)
        idle = table.place[rows] == NOWHERE
        newcomers = np.count_nonzero(idle)
        if newcomers == len(rows):
            self._lines.append(rows, waiting)
        elif newcomers:
            self._lines.append(rows[idle], waiting[idle])
        return int(np.maximum.reduce(waiting + table.in_flight[rows]))

    def close(self, session: Session, ending: Ending = FINISHED) -> bool:
        """Ends a session once its queue is answered. True if that is now."""
        if session.closing is None:
            session.closing = ending
            self.table.leave(session.slot.index, CLOSING)
        if session.unanswered:
            return False
        self._end(session, session.closing)
        return True

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session at once and forgets its queue; a step that it is in goes to nobody."""
        self._end(session, ending)

    def release(self, outbox: Outbox) -> None:
        """Lets sessions go on that were held because their outbox was full."""
        held, outbox.held = outbox.held, []
        self._held.discard(outbox)
        for rows, place in held:
            present = rows[self.table.place[rows] == place]
            if len(present):
                self._lines.append(present, self.table.waiting[present])

    @property
    def ready(self) -> bool:
        """Whether some session stands in line."""
        return self._lines.sessions > 0 or bool(self._beginners)

    @property
    def full(self) -> bool:
        """Whether enough stands in line for the next step to be made ahead: as many as shared
        the last one, or as much as fills one."""
        limits, lines = self.limits, self._lines
        if lines.sessions >= min(limits.max_batch_size, self._rows):
            return True
        return lines.elements >= limits.max_step_elements

    def schedule(self, *, idle: bool = False) -> Batch | Beginning | None:
        """Takes the next batch out of the queues, or the next sessions that begin; None if nobody
        is ready. `idle`: whether the model had nothing to do before."""
        # The beginners' line is the last.
        lines = len(self._lines) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._lines):
                beginning = self._beginners.take(self.limits.max_beginning)
                if beginning is not None:
                    self._turn = 0
                    return beginning
            elif self._lines.of(line) and (batch := self._take(line, idle)) is not None:
                self._turn = line + 1
                return batch
        return None

    def complete(self, batch: Batch) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions that ended with it."""
        table, rows = self.table, batch.slots
        table.in_flight[rows] = 0
        table.place[rows] = NOWHERE
        table.position[rows] += batch.counts
        if table.starters:
            table.started(rows)
        waiting = table.waiting[rows]
        if np.count_nonzero(waiting):
            more = waiting > 0
            self._lines.append(rows[more], waiting[more])
        return self._left(batch, waiting) if table.leavers else []

    def begun(self, beginning: Beginning) -> None:
        """Lets sessions go on that have a state in their slots now."""
        self._beginners.settle(beginning)
        for session in beginning.sessions:
            if session.ended is not None:
                self._free(session)
                continue
            row = session.slot.index
            self.table.place[row] = NOWHERE
            if session.pending:
                self._lines.append_one(row, session.pending)

    def fail(self, work: Batch | Beginning, ending: Ending) -> list[Session]:
        """Ends every session of a step or beginning that failed. Returns those that it ended."""
        if isinstance(work, Beginning):
            self._beginners.settle(work)
        else:
            self.table.in_flight[work.slots] = 0
        failed = []
        for session in work.sessions:
            if session.ended is not None:
                self._free(session)
            else:
                self._end(session, ending)
                failed.append(session)
        return failed

    def _left(self, batch: Batch, waiting: Numbers) -> list[Session]:
        """Those who end with a step. Who ended while it ran is forgotten."""
        leaving = self.table.leaving[batch.slots]
        for session in self.table.of(batch.slots[leaving == ENDED]):
            self._free(session)
        ending = self.table.of(batch.slots[(leaving == CLOSING) & (waiting == 0)])
        for session in ending:
            self._end(session, session.closing or FINISHED)
        return ending

    def _take(self, first: int, idle: bool) -> Batch | None:
        """The sessions that fit into a step best, those of a certain line first."""
        table = self.table
        while True:
            if self._lines.sessions == 1:
                return self._take_one(first)
            rows = self._lines.front(first, self.limits.max_batch_size)
            if not len(rows):
                return None
            ids = table.receiver[rows]
            alike = np.count_nonzero(ids == ids[0]) == len(ids)
            if not self._hold(rows, ids, alike):
                break
        waiting = table.waiting[rows]
        fitting, chunk = self._fitting.fit(waiting)
        if idle and fitting == self._lines.sessions:
            fitting = self._fitting.first_part(fitting, chunk)
        self._lines.leave(fitting)
        self._rows = fitting
        if fitting < len(rows):
            rows, waiting, ids = rows[:fitting], waiting[:fitting], ids[:fitting]
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
        """The same if at most one stands in line, as is so of who does not multiplex."""
        row = self._lines.take_one(line)
        if row is None:
            return None
        receiver = self._receiver(row)
        if receiver.outbox.full:
            rows = np.array([row])
            self._hold(rows, self.table.receiver[rows], True)
            return None
        table = self.table
        waiting = int(table.waiting[row])
        count = self._fitting.fit_one(waiting)
        table.place[row] = IN_STEP
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
        """Takes those whose outboxes are full out of their lines. False if there are none."""
        table, held = self.table, False
        each = rows[:1] if alike else rows[np.unique(ids, return_index=True)[1]]
        for row in each.tolist():
            receiver = self._receiver(row)
            if receiver.outbox.full:
                own = rows[ids == receiver.id]
                table.place[own] = place = -self._lines.new_place()
                self._held.add(receiver.outbox)
                receiver.outbox.held.append((own, place))
                held = True
        return held

    def _parts(self, rows: Rows, ids: Numbers) -> list[Part]:
        """Of rows in the order of their receivers; of all of them, if that is one."""
        if len(ids) == 1:
            return [Part(self._receiver(int(rows[0])), 0, len(rows))]
        stops = [*((ids[1:] != ids[:-1]).nonzero()[0] + 1).tolist(), len(rows)]
        starts = [0, *stops[:-1]]
        return [
            Part(self._receiver(row), start, stop)
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
        table = self.table
        table.place[rows] = IN_STEP
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

    def _receiver(self, row: int) -> Receiver:
        session = self.table.sessions[row]
        assert session is not None
        return session.receiver

    def _end(self, session: Session, ending: Ending) -> None:
        if session.ended is not None:
            return
        table, row = self.table, session.slot.index
        waiting = session.pending
        session.outbox.pending -= waiting
        self._queues.clear(row)
        session.end(ending)
        table.leave(row, ENDED)
        if not session.outbox.pending:
            self._held.discard(session.outbox)
        self.sessions.discard(session)
        if session.contexts is not None:
            self._beginners.drop(session)
        # A slot that is in a step is written to when the step ends, so it is freed only then.
        if not table.in_flight[row] and session.start is not Start.UNDER_WAY:
            self._free(session)

    def _free(self, session: Session) -> None:
        self.table.remove(session.slot.index)
        self.pool.free(session.slot)
