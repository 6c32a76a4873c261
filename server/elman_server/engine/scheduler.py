"""The scheduler: which sessions share the next step, and with how many elements each.

Pure and synchronous: time is an argument, slots are numbers, and what a step computes is not its
business. A session that has `2^k` to `2^(k+1) - 1` elements when it lines up stands in line `k`. A
step is filled from one line after another, and they take turns at being the first: so the head of a
line waits for at most one bounded step of each other line, however much others have pushed. How
many of those who wait share a step, and of what chunk, is what answers the most elements a second.
Sessions that have yet to begin stand in a line of their own, and so do those whose snapshot is due.
"""

from collections.abc import Sequence

import numpy as np

from elman_server.engine.batch import Batch, Part
from elman_server.engine.beginning import Beginners, Beginning, Given, Start
from elman_server.engine.delivery import Selection
from elman_server.engine.limits import Fitting, Seconds, StepLimits
from elman_server.engine.lines import Lines
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.queues import Elements, Queues, Times, gathered
from elman_server.engine.readers import Readers
from elman_server.engine.session import CANCELLED, FINISHED, Ending, Session
from elman_server.engine.snapshot import (
    NEVER,
    Cadence,
    Reading,
    Restoring,
    Snapshot,
    Tensors,
)
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
        self._readers = Readers(self.table)

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
        """Bytes of what sessions were given that have not begun."""
        return self._beginners.nbytes

    def add(
        self,
        *,
        id: str,
        number: int,
        outbox: Outbox,
        selection: Selection,
        given: Given | None = None,
        cadence: Cadence | None = None,
        parkable: bool = False,
        awaited: bool = False,
        now: float = 0.0,
    ) -> Session:
        """A new session. If it is given something, its elements wait until it has begun from that;
        if that is `awaited`, until it is `found`."""
        session = Session(
            id=id,
            number=number,
            receiver=outbox.receiver(selection),
            slot=self.pool.allocate(),
            table=self.table,
        )
        self.sessions.add(session)
        if isinstance(given, Snapshot):
            session.first = given.position
            given = None if given.tensors is None else given
        fresh = given is None and not awaited
        self.table.add(session, fresh=fresh, position=session.first)
        session.cadence = cadence
        if cadence is not None and not awaited:
            self.table.keep(session.slot.index, cadence, now)
        if parkable:
            self.table.may_park(session.slot.index, now)
        if awaited:
            session.start = Start.AWAITED
        elif given is not None:
            self._beginners.add(session, given)
        return session

    def found(self, session: Session, given: Given | None, now: float) -> None:
        """What an awaited session begins from; None: in the initial state."""
        table, row = self.table, session.slot.index
        session.start = Start.INITIAL
        asked = int(table.due[row])
        if isinstance(given, Snapshot):
            session.first = table.position[row] = given.position
            given = None if given.tensors is None else given
        table.keep(row, session.cadence or Cadence(), now)
        if asked != NEVER:
            due = min(int(table.due[row]), asked + session.first)
            table.expect(row, due, float(table.due_time[row]))
        if given is None:
            table.begin(row)
            self._go_on(session)
        else:
            self._beginners.add(session, given)

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
        if session.unanswered or session.start is Start.AWAITED:
            return False
        if session.hands_over:
            self._hand_over(session)
            return False
        self._end(session, session.closing)
        return True

    def cut(self, session: Session, ending: Ending) -> bool:
        """Forgets the queue of a session, so that what runs is the last of it, and ends it so; but
        for one that is closing because of an error. True if it ended with that."""
        if session.closing is None or session.closing.reason is FINISHED.reason:
            session.closing = ending
            self.table.leave(session.slot.index, CLOSING)
        self._forget_queue(session)
        if session.in_flight or session.reading:
            return False
        if session.hands_over and session.start in (Start.INITIAL, Start.BEGUN):
            self._hand_over(session)
            return False
        self._end(session, session.closing)
        return True

    def snapshot(self, session: Session) -> None:
        """Has its snapshot taken as soon as all that was pushed is answered."""
        table, row = self.table, session.slot.index
        position = session.position + session.unanswered
        table.expect(row, min(int(table.due[row]), position), float(table.due_time[row]))
        if not session.unanswered and table.place[row] == NOWHERE:
            self._readers.add(session)

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session at once and forgets its queue; a step that it is in goes to nobody."""
        self._end(session, ending)

    def release(self, outbox: Outbox) -> None:
        """Lets sessions go on that were held because their outbox was full."""
        self._readers.add_again(outbox.unread)
        outbox.unread = []
        held, outbox.held = outbox.held, []
        self._held.discard(outbox)
        for rows, place in held:
            present = rows[self.table.place[rows] == place]
            if len(present):
                self._lines.append(present, self.table.waiting[present])

    @property
    def ready(self) -> bool:
        """Whether some session stands in line."""
        return self._lines.sessions > 0 or bool(self._beginners) or bool(self._readers)

    @property
    def full(self) -> bool:
        """Whether enough stands in line for the next step to be made ahead: as many as shared
        the last one, or as much as fills one."""
        limits, lines = self.limits, self._lines
        if lines.sessions >= min(limits.max_batch_size, self._rows):
            return True
        return lines.elements >= limits.max_step_elements

    def schedule(self, *, idle: bool = False) -> Batch | Beginning | Restoring | Reading | None:
        """Takes the next batch out of the queues, or the next sessions that begin or are to be
        read; None if nobody is ready. `idle`: whether the model had nothing to do before."""
        if self._readers and (reading := self._readers.take(self.limits.max_batch_size)):
            return reading
        # The beginners' line is the last.
        lines = len(self._lines) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._lines):
                beginning = self._beginners.take(
                    most=self.limits.max_beginning, most_restored=self.limits.max_batch_size
                )
                if beginning is not None:
                    self._turn = 0
                    return beginning
            elif self._lines.of(line) and (batch := self._take(line, idle)) is not None:
                self._turn = line + 1
                return batch
        return None

    def complete(self, batch: Batch, now: float = 0.0) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions that ended with it."""
        table, rows = self.table, batch.slots
        table.in_flight[rows] = 0
        table.place[rows] = NOWHERE
        table.position[rows] += batch.counts
        if table.starters:
            table.started(rows)
        if table.parkables:
            table.active[rows] = now
        waiting = table.waiting[rows]
        left = self._left(batch, waiting) if table.leavers else []
        more = waiting > 0
        if table.watched:
            due = table.whose_due(rows, now)
            if np.count_nonzero(due):
                for session in table.of(rows[due]):
                    self._readers.add(session)
                more &= ~due
        if np.count_nonzero(more):
            self._lines.append(rows[more], waiting[more])
        return left

    def took(
        self, reading: Reading, tensors: Tensors | None, now: float = 0.0
    ) -> tuple[list[tuple[Session, Snapshot]], list[Session]]:
        """Lets sessions go on whose slots were read; `tensors` is what they held, or None if that
        failed. Returns their snapshots, and the sessions that ended with that."""
        table = self.table
        snapshots: list[tuple[Session, Snapshot]] = []
        ended: list[Session] = []
        for i, session in enumerate(reading.sessions):
            session.reading = False
            if session.ended is not None:
                self._free(session)
                continue
            row = session.slot.index
            table.place[row] = NOWHERE
            table.taken(row, now)
            if tensors is not None:
                # A copy, so that what one caller has not read yet keeps nobody else's alive.
                own = None if table.fresh[row] else tuple(array[i].copy() for array in tensors)
                snapshots.append((session, Snapshot(position=session.position, tensors=own)))
            if session.pending:
                self._lines.append_one(row, session.pending)
            elif session.closing is not None:
                self._end(session, session.closing)
                ended.append(session)
        return snapshots, ended

    def begun(self, beginning: Beginning | Restoring) -> None:
        """Lets sessions go on that have a state in their slots now."""
        self._beginners.settle(beginning)
        for session in beginning.sessions:
            if session.ended is not None:
                self._free(session)
                continue
            self.table.place[session.slot.index] = NOWHERE
            self._go_on(session)

    def fail(self, work: Batch | Beginning | Restoring, ending: Ending) -> list[Session]:
        """Ends every session of a step or beginning that failed. Returns those that it ended."""
        if isinstance(work, Batch):
            self.table.in_flight[work.slots] = 0
        else:
            self._beginners.settle(work)
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
        ended = []
        for session in self.table.of(batch.slots[(leaving == CLOSING) & (waiting == 0)]):
            if session.hands_over:
                self._readers.add(session)
            else:
                self._end(session, session.closing or FINISHED)
                ended.append(session)
        return ended

    def _go_on(self, session: Session) -> None:
        """One that has just begun."""
        row = session.slot.index
        if self.table.due[row] <= session.position:
            self._readers.add(session)
        elif session.pending:
            self._lines.append_one(row, session.pending)
        elif session.closing is not None:
            self._readers.add(session)

    def _hand_over(self, session: Session) -> None:
        """A session that has nothing waiting ends with its snapshot; one that has not begun does
        when it has."""
        if session.start in (Start.INITIAL, Start.BEGUN):
            self._readers.add(session)

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
        self._forget_queue(session)
        session.end(ending)
        table.leave(row, ENDED)
        self.sessions.discard(session)
        if session.given is not None:
            self._beginners.drop(session)
        # A slot that is in a step is written to when the step ends, so it is freed only then.
        busy = table.in_flight[row] or session.reading or session.start is Start.UNDER_WAY
        if not busy:
            self._free(session)

    def _forget_queue(self, session: Session) -> None:
        outbox = session.outbox
        outbox.pending -= session.pending
        self._queues.clear(session.slot.index)
        if not outbox.pending:
            self._held.discard(outbox)

    def _free(self, session: Session) -> None:
        self.table.remove(session.slot.index)
        self.pool.free(session.slot)
