"""The scheduler: chooses the sessions of the next step, and how many elements each has in it.

Pure and synchronous: time is an argument, slots are numbers, and the model's computation happens
elsewhere. A session with `2^k` to `2^(k+1) - 1` elements on entering the ready queue waits in line
`k`. A step is filled from all lines in order, and the lines take turns at being first. So the head
of a line waits for at most one bounded step of each other line, however many elements other
sessions push. Sessions without a state yet wait in a separate queue, and so do sessions with a
snapshot due.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from elman_server.engine.arrays import Elements, Numbers, Rows
from elman_server.engine.batch import Batch
from elman_server.engine.batch_builder import BatchBuilder
from elman_server.engine.capture_queue import CaptureQueue
from elman_server.engine.ending import CANCELLED, FINISHED, Ending
from elman_server.engine.init import InitialState, InitJob, InitQueue
from elman_server.engine.limits import Seconds, StepLimits
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.queues import Queues, gathered
from elman_server.engine.ready_queue import ReadyQueue
from elman_server.engine.request import OpenRequest
from elman_server.engine.session import Session, Start
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
    SessionTable,
)

RESUMED_SECONDS = 60.0
"""Seconds from the open of a resumed session to the start of its idle time. The client resumed the
session for a push, so an element is on the way."""


class Scheduler:
    """Owns a model's sessions, queues and slots."""

    def __init__(
        self, limits: StepLimits, seconds: Seconds = lambda rows, chunk: rows * chunk * 1e-6
    ) -> None:
        """`seconds(rows, chunk)` estimates the model's seconds for a step."""
        self.limits = limits
        self.pool = StatePool()
        self.table = SessionTable()
        self.sessions: set[Session] = set()
        """All open and closing sessions."""
        self._by_row: dict[int, Session] = {}
        """The session of each slot in use. May have ended, if its slot is in a running job."""
        self._queues = Queues(self.table)
        self._ready = ReadyQueue(self.table, limits.longest_chunk)
        self._builder = BatchBuilder(
            limits, seconds, table=self.table, queues=self._queues, lines=self._ready
        )
        self._init_queue = InitQueue(self.table)
        self._turn = 0
        self._most_read = min(limits.max_batch_size, limits.max_reading)
        self._capture_queue = CaptureQueue(self.table, hold=self._builder.hold)

    @property
    def pending(self) -> int:
        """Elements of all sessions waiting for a step."""
        return len(self._queues)

    @property
    def backlog(self) -> int:
        """Elements waiting for a step, without the elements held for a caller that does not
        read."""
        return self.pending - self._builder.held

    @property
    def context_nbytes(self) -> int:
        """Bytes of contexts and snapshots of sessions without a ready state."""
        return self._init_queue.nbytes

    def add(self, request: OpenRequest, *, id: str, now: float = 0.0) -> Session:
        """Returns a new session. With an initial state in the request, the session's elements wait
        until the slot holds the state. If awaited, the elements wait for `found`."""
        session = Session(
            id=id,
            number=request.number,
            receiver=request.outbox.receiver(request.selection),
            slot=self.pool.allocate(),
            cadence=request.cadence,
            table=self.table,
        )
        row, initial_state = session.slot.index, request.initial_state
        self.sessions.add(session)
        self._by_row[row] = session
        resumed = isinstance(initial_state, Snapshot)
        if isinstance(initial_state, Snapshot) and not request.awaited:
            session.first = initial_state.position
            initial_state = None if initial_state.tensors is None else initial_state
        self.table.add(
            row,
            number=request.number,
            receiver=session.receiver,
            fresh=initial_state is None and not request.awaited,
            position=session.first,
        )
        if request.cadence is not None and not request.awaited:
            self.table.keep(row, request.cadence, now)
        if request.parkable:
            # Opened for a push, which may be behind the opens of many other sessions.
            self.table.may_park(row, now + RESUMED_SECONDS if resumed else now)
        if request.awaited:
            session.start = Start.AWAITED
            self._init_queue.expect(row, initial_state)
        elif initial_state is not None:
            session.start = Start.DUE
            self._init_queue.add(row, initial_state)
        return session

    def of(self, rows: Iterable[int]) -> list[Session]:
        """Returns the sessions of slots in use."""
        return [self._by_row[row] for row in rows]

    def idle(self, since: float) -> list[Session]:
        """Returns parkable sessions without work since the time `since`."""
        return self.of(self.table.idle(since).tolist())

    def found(self, session: Session, initial_state: InitialState | None, now: float) -> None:
        """Supplies the initial state of an awaited session; `None`: the model's initial state."""
        table, row = self.table, session.slot.index
        self._init_queue.forget(row)
        session.start = Start.INITIAL
        if isinstance(initial_state, Snapshot):
            session.first = table.position[row] = initial_state.position
            initial_state = None if initial_state.tensors is None else initial_state
        table.keep(row, session.cadence or Cadence(), now)
        if initial_state is None:
            table.begin(row)
            self._go_on(session)
        else:
            session.start = Start.DUE
            self._init_queue.add(row, initial_state)

    def push(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, now: float
    ) -> int:
        """Queues elements `[sum(counts), *shape]`: `counts[i]` for `sessions[i]`, in order.

        No session may be closing or ended. Returns the largest number of elements that any of the
        sessions now has waiting or in a step.
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
                # More elements of the same session may follow.
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
        """Queues elements as `push` does, for sessions with a common receiver. `rows` are slot
        indices and may repeat; `counts[i]` is at least 1."""
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
        """Ends a session once its queue is answered. Returns True if the session ends now."""
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
        """Drops a session's queue and ends the session after in-flight work. A session that is
        already closing because of an error keeps the first ending. Returns True if the session ends
        now."""
        if session.closing is None or session.closing.reason is FINISHED.reason:
            session.closing = ending
            self.table.leave(session.slot.index, CLOSING)
        self._builder.forget(session.slot.index)
        if session.keeping is not None:  # a client may wait for the checkpoint
            self._capture_queue.hasten(session.slot.index)
        if session.in_flight or session.reading:
            return False
        if session.hands_over and session.start in (Start.INITIAL, Start.BEGUN):
            self._hand_over(session)
            return False
        self._end(session, session.closing.without_snapshot)
        return True

    def snapshot(self, session: Session) -> None:
        """Has a session's snapshot taken once all pushed elements are answered."""
        table, row = self.table, session.slot.index
        table.ask(row, session.position + session.unanswered)
        if not session.unanswered and table.place[row] == NOWHERE:
            self._capture_queue.add(row)

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session now and drops its queue. Predictions of an in-flight step are
        discarded."""
        self._end(session, ending)

    def release(self, outbox: Outbox) -> bool:
        """Releases sessions held because of a full outbox. Returns whether there were any."""
        captures = self._capture_queue.release(outbox)
        return self._builder.release(outbox) or captures

    @property
    def ready(self) -> bool:
        """Whether some session is ready for a step, for its first state or for a snapshot."""
        return self._ready.sessions > 0 or bool(self._init_queue) or bool(self._capture_queue)

    @property
    def full(self) -> bool:
        """Whether enough sessions are ready to make the next step ahead of time."""
        return self._builder.full

    def schedule(self, *, idle: bool = False) -> Batch | InitJob | RestoreJob | CaptureJob | None:
        """Takes the next job out of the queues; `None` if no session is ready. `idle`: whether the
        model had no work before."""
        if self._capture_queue and (reading := self._capture_queue.take(self._most_read)):
            for session in self.of(reading.slots):
                session.reading = True
            return reading
        # The last number stands for the queue of sessions without a state.
        lines = len(self._ready) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._ready):
                beginning = self._init_queue.take(
                    most=self.limits.max_beginning, most_restored=self._most_read
                )
                if beginning is not None:
                    self._turn = 0
                    for session in self.of(beginning.slots):
                        session.start = Start.UNDER_WAY
                    return beginning
            elif self._ready.of(line) and (batch := self._builder.take(line, idle)) is not None:
                self._turn = line + 1
                return batch
        return None

    def complete(self, batch: Batch, now: float = 0.0) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions ended by the step."""
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
                for row in rows[due].tolist():
                    self._capture_queue.add(row)
                more &= ~due
        if np.count_nonzero(more):
            self._ready.append(rows[more], waiting[more])
        return left

    def took(
        self, reading: CaptureJob, tensors: Tensors | None, now: float = 0.0
    ) -> tuple[list[tuple[Session, Snapshot]], list[Session]]:
        """Releases the sessions of a finished `CaptureJob`. `tensors`: the states of the slots, or
        `None` if the capture failed. Returns the snapshots, and the sessions ended by the
        capture."""
        table = self.table
        snapshots: list[tuple[Session, Snapshot]] = []
        ended: list[Session] = []
        for i, session in enumerate(self.of(reading.slots)):
            session.reading = False
            if session.ended is not None:
                self._free(session)
                continue
            row = session.slot.index
            table.place[row] = NOWHERE
            table.taken(row, now)
            if tensors is not None:
                # A copy, so that one unread snapshot does not keep the whole array alive.
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
        """Releases sessions after their slots have got a state."""
        for session in self._settle(beginning):
            if session.ended is not None:
                self._free(session)
                continue
            self.table.place[session.slot.index] = NOWHERE
            self._go_on(session)

    def fail(self, work: Batch | InitJob | RestoreJob, ending: Ending) -> list[Session]:
        """Ends every session of a failed job. Returns the sessions ended by the failure."""
        if isinstance(work, Batch):
            self.table.in_flight[work.slots] = 0
            sessions = self.of(work.slots.tolist())
        else:
            sessions = self._settle(work)
        failed = []
        for session in sessions:
            if session.ended is not None:
                self._free(session)
            else:
                self._end(session, ending)
                failed.append(session)
        return failed

    def _settle(self, beginning: InitJob | RestoreJob) -> list[Session]:
        """Marks a job's sessions as initialized, even if the job failed. Returns the sessions."""
        self._init_queue.settle(beginning)
        sessions = self.of(beginning.slots)
        for session in sessions:
            session.start = Start.BEGUN
        return sessions

    def _left(self, batch: Batch, waiting: Numbers) -> list[Session]:
        """Returns sessions that end with a step. Frees the slots of sessions that ended
        meanwhile."""
        leaving = self.table.leaving[batch.slots]
        for session in self.of(batch.slots[leaving == ENDED].tolist()):
            self._free(session)
        ended = []
        for session in self.of(batch.slots[(leaving == CLOSING) & (waiting == 0)].tolist()):
            if session.hands_over or self.table.asked(session.slot.index):
                self._capture_queue.add(session.slot.index)
            else:
                self._end(session, session.closing or FINISHED)
                ended.append(session)
        return ended

    def _go_on(self, session: Session) -> None:
        """Queues a session with a new state for the next work due."""
        row = session.slot.index
        if self.table.due[row] <= session.position:
            self._capture_queue.add(row)
        elif session.pending:
            self._ready.append_one(row, session.pending)
        elif session.closing is not None:
            self._capture_queue.add(row)

    def _hand_over(self, session: Session) -> None:
        """Queues a closing session for its last snapshot. If the session has no state yet, `_go_on`
        does so later."""
        if session.start in (Start.INITIAL, Start.BEGUN):
            self._capture_queue.add(session.slot.index)

    def _end(self, session: Session, ending: Ending) -> None:
        if session.ended is not None:
            return
        table, row = self.table, session.slot.index
        for queue in (self._builder, self._init_queue, self._capture_queue):
            queue.forget(row)
        session.end(ending)
        table.leave(row, ENDED)
        self.sessions.discard(session)
        # An in-flight step writes to the slot at its end, so the slot is freed only then.
        busy = table.in_flight[row] or session.reading or session.start is Start.UNDER_WAY
        if not busy:
            self._free(session)

    def _free(self, session: Session) -> None:
        self.table.remove(session.slot.index)
        del self._by_row[session.slot.index]
        self.pool.free(session.slot)
