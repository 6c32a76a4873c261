"""The scheduler: which sessions share the next step, and with how many elements each.

Pure and synchronous: time is an argument, slots are numbers, and what a step computes is not its
business. A session that has `2^k` to `2^(k+1) - 1` elements when it lines up stands in line `k`. A
step is filled from one line after another, and they take turns at being the first: so the head of a
line waits for at most one bounded step of each other line, however much others have pushed.
Sessions that have yet to begin stand in a line of their own, and so do those whose snapshot is due.
"""

from collections.abc import Sequence

import numpy as np

from elman_server.engine.batch import Batch
from elman_server.engine.batch_builder import BatchBuilder
from elman_server.engine.capture_queue import CaptureQueue
from elman_server.engine.delivery import Selection
from elman_server.engine.init import InitialState, InitJob, InitQueue, Start
from elman_server.engine.limits import Seconds, StepLimits
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.queues import Elements, Queues, gathered
from elman_server.engine.ready_queue import ReadyQueue
from elman_server.engine.session import CANCELLED, FINISHED, Ending, Session
from elman_server.engine.snapshot import (
    Cadence,
    CaptureJob,
    RestoreJob,
    Snapshot,
    Tensors,
)
from elman_server.engine.state_pool import StatePool
from elman_server.engine.table import (
    CLOSING,
    COMING,
    ENDED,
    NOWHERE,
    Numbers,
    Rows,
    SessionTable,
)

RESUMED_SECONDS = 60.0
"""For so much longer than others a session that was opened from a snapshot is not idle before its
first element: its client has opened it for a push."""


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
        self._ready = ReadyQueue(self.table, limits.longest_chunk)
        self._builder = BatchBuilder(
            limits, seconds, table=self.table, queues=self._queues, lines=self._ready
        )
        self._init_queue = InitQueue()
        self._turn = 0
        self._most_read = min(limits.max_batch_size, limits.max_reading)
        self._capture_queue = CaptureQueue(self.table, hold=self._builder.hold)

    @property
    def pending(self) -> int:
        """Elements that wait for a step, of all sessions."""
        return len(self._queues)

    @property
    def backlog(self) -> int:
        """Elements that wait for a step and not for their caller to read."""
        return self.pending - self._builder.held

    @property
    def context_nbytes(self) -> int:
        """Bytes of what sessions were given that have not begun."""
        return self._init_queue.nbytes

    def add(
        self,
        *,
        id: str,
        number: int,
        outbox: Outbox,
        selection: Selection,
        given: InitialState | None = None,
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
        resumed = isinstance(given, Snapshot)
        if isinstance(given, Snapshot) and not awaited:
            session.first = given.position
            given = None if given.tensors is None else given
        fresh = given is None and not awaited
        self.table.add(session, fresh=fresh, position=session.first)
        session.cadence = cadence
        if cadence is not None and not awaited:
            self.table.keep(session.slot.index, cadence, now)
        if parkable:
            # Opened again for a push, which may be behind the opens of many others.
            idle_from = now + RESUMED_SECONDS if resumed else now
            self.table.may_park(session.slot.index, idle_from)
        if awaited:
            self._init_queue.expect(session, given)
        elif given is not None:
            self._init_queue.add(session, given)
        return session

    def found(self, session: Session, given: InitialState | None, now: float) -> None:
        """What an awaited session begins from; None: in the initial state."""
        table, row = self.table, session.slot.index
        if session.given is not None:
            self._init_queue.drop(session)
        session.start = Start.INITIAL
        if isinstance(given, Snapshot):
            session.first = table.position[row] = given.position
            given = None if given.tensors is None else given
        table.keep(row, session.cadence or Cadence(), now)
        if given is None:
            table.begin(row)
            self._go_on(session)
        else:
            self._init_queue.add(session, given)

    def push(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, now: float
    ) -> int:
        """Queues elements `[sum(counts), *shape]`: `counts[i]` for `sessions[i]`, in their order.

        None of the sessions is closing or has ended. Returns the largest
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
            self._ready.append_one(newcomers[0], int(table.waiting[newcomers[0]]))
        elif newcomers:
            rows = np.array(newcomers)
            self._ready.append(rows, table.waiting[rows])
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
            self._ready.append(rows, waiting)
        elif newcomers:
            self._ready.append(rows[idle], waiting[idle])
        return int(np.maximum.reduce(waiting + table.in_flight[rows]))

    def close(self, session: Session, ending: Ending = FINISHED) -> bool:
        """Ends a session once its queue is answered. True if that is now."""
        if session.closing is None:
            session.closing = ending
            self.table.leave(session.slot.index, CLOSING)
        if session.unanswered or session.start is Start.AWAITED:
            return False
        if session.hands_over or self.table.asked(session.slot.index):
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
        self._builder.forget(session)
        if session.keeping is not None:  # there may be somebody who waits for that
            session.cut = True
            self._capture_queue.hasten(session)
        if session.in_flight or session.reading:
            return False
        if session.hands_over and session.start in (Start.INITIAL, Start.BEGUN):
            self._hand_over(session)
            return False
        self._end(session, session.closing.without_snapshot)
        return True

    def snapshot(self, session: Session) -> None:
        """Has its snapshot taken as soon as all that was pushed is answered."""
        table, row = self.table, session.slot.index
        table.ask(row, session.position + session.unanswered)
        if not session.unanswered and table.place[row] == NOWHERE:
            self._capture_queue.add(session)

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session at once and forgets its queue; a step that it is in goes to nobody."""
        self._end(session, ending)

    def release(self, outbox: Outbox) -> None:
        """Lets sessions go on that were held because their outbox was full."""
        self._capture_queue.add_again(outbox.unread)
        outbox.unread = []
        self._builder.release(outbox)

    @property
    def ready(self) -> bool:
        """Whether some session stands in line."""
        return self._ready.sessions > 0 or bool(self._init_queue) or bool(self._capture_queue)

    @property
    def full(self) -> bool:
        """Whether enough stands in line for the next step to be made ahead."""
        return self._builder.full

    def schedule(self, *, idle: bool = False) -> Batch | InitJob | RestoreJob | CaptureJob | None:
        """Takes the next batch out of the queues, or the next sessions that begin or are to be
        read; None if nobody is ready. `idle`: whether the model had nothing to do before."""
        if self._capture_queue and (reading := self._capture_queue.take(self._most_read)):
            return reading
        # The beginners' line is the last.
        lines = len(self._ready) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._ready):
                beginning = self._init_queue.take(
                    most=self.limits.max_beginning, most_restored=self._most_read
                )
                if beginning is not None:
                    self._turn = 0
                    return beginning
            elif self._ready.of(line) and (batch := self._builder.take(line, idle)) is not None:
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
                    self._capture_queue.add(session)
                more &= ~due
        if np.count_nonzero(more):
            self._ready.append(rows[more], waiting[more])
        return left

    def took(
        self, reading: CaptureJob, tensors: Tensors | None, now: float = 0.0
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
                self._ready.append_one(row, session.pending)
            elif session.closing is not None:
                closing = session.closing
                self._end(session, closing if tensors is not None else closing.without_snapshot)
                ended.append(session)
        return snapshots, ended

    def begun(self, beginning: InitJob | RestoreJob) -> None:
        """Lets sessions go on that have a state in their slots now."""
        self._init_queue.settle(beginning)
        for session in beginning.sessions:
            if session.ended is not None:
                self._free(session)
                continue
            self.table.place[session.slot.index] = NOWHERE
            self._go_on(session)

    def fail(self, work: Batch | InitJob | RestoreJob, ending: Ending) -> list[Session]:
        """Ends every session of a step or beginning that failed. Returns those that it ended."""
        if isinstance(work, Batch):
            self.table.in_flight[work.slots] = 0
        else:
            self._init_queue.settle(work)
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
            if session.hands_over or self.table.asked(session.slot.index):
                self._capture_queue.add(session)
            else:
                self._end(session, session.closing or FINISHED)
                ended.append(session)
        return ended

    def _go_on(self, session: Session) -> None:
        """One that has just begun."""
        row = session.slot.index
        if self.table.due[row] <= session.position:
            self._capture_queue.add(session)
        elif session.pending:
            self._ready.append_one(row, session.pending)
        elif session.closing is not None:
            self._capture_queue.add(session)

    def _hand_over(self, session: Session) -> None:
        """A session that has nothing waiting ends with its snapshot; one that has not begun does
        when it has."""
        if session.start in (Start.INITIAL, Start.BEGUN):
            self._capture_queue.add(session)

    def _end(self, session: Session, ending: Ending) -> None:
        if session.ended is not None:
            return
        table, row = self.table, session.slot.index
        self._builder.forget(session)
        session.end(ending)
        table.leave(row, ENDED)
        self.sessions.discard(session)
        if session.given is not None:
            self._init_queue.drop(session)
        # A slot that is in a step is written to when the step ends, so it is freed only then.
        busy = table.in_flight[row] or session.reading or session.start is Start.UNDER_WAY
        if not busy:
            self._free(session)

    def _free(self, session: Session) -> None:
        self.table.remove(session.slot.index)
        self.pool.free(session.slot)
