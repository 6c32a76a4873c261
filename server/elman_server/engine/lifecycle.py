"""The lives of a model's sessions: from the open through the phases to the end.

Pure and synchronous. The scheduler and the jobs move sessions only through this module and the
queues; `phase.py` shows the phases.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from elman_server.engine.arrays import Numbers, Rows
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.queues.capture_queue import CaptureQueue
from elman_server.engine.queues.element_queues import Queues
from elman_server.engine.queues.holds import Holds
from elman_server.engine.queues.init_queue import InitQueue
from elman_server.engine.queues.ready_queue import ReadyQueue
from elman_server.engine.sessions.ending import FINISHED, Ending
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.phase import ENDED, IDLE, IN_JOB, NO_STATE, OPEN, Phase, Stage
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Cadence, Snapshot, Tensors
from elman_server.engine.sessions.state_pool import StatePool
from elman_server.engine.sessions.table import SessionTable

RESUMED_SECONDS = 60.0
"""Seconds from the open of a resumed session to the start of its idle time. The client resumed the
session for a push, so an element is on the way."""


class Lifecycle:
    """Owns the sessions, their slots and their queues."""

    def __init__(self, longest_chunk: int) -> None:
        self.pool = StatePool()
        self.table = SessionTable()
        self.sessions: set[Session] = set()
        """All open and closing sessions."""
        self._by_row: dict[int, Session] = {}
        """The session of each slot in use. May have ended, if its slot is in a running job."""
        self.queues = Queues(self.table)
        self.ready = ReadyQueue(self.table, longest_chunk)
        self.holds = Holds(self.table, self.ready)
        self.inits = InitQueue(self.table)
        self.captures = CaptureQueue(self.table, self.holds)

    def of(self, rows: Iterable[int]) -> list[Session]:
        """Returns the sessions of slots in use."""
        return [self._by_row[row] for row in rows]

    def outboxes(self, rows: Iterable[int]) -> set[Outbox]:
        """Returns the outboxes of slots in use."""
        return {self.table.receiver_of(row).outbox for row in rows}

    # Opening.

    def add(self, request: OpenRequest, *, id: str, now: float) -> Session:
        """Returns a new session."""
        session = Session(
            id=id,
            number=request.number,
            receiver=request.outbox.receiver(request.selection),
            slot=self.pool.allocate(),
            cadence=request.cadence,
            table=self.table,
        )
        table, row, initial_state = self.table, session.slot.index, request.initial_state
        self.sessions.add(session)
        self._by_row[row] = session
        table.add(row, number=request.number, receiver=session.receiver)
        if request.parkable:
            # Opened for a push, which may be behind the opens of many other sessions.
            resumed = isinstance(initial_state, Snapshot)
            table.may_park(row, now + RESUMED_SECONDS if resumed else now)
        if request.awaited:
            self.inits.expect(row, initial_state)
            return session
        self._initialize(session, initial_state)
        if request.cadence is not None:
            table.keep(row, request.cadence, now)
        return session

    def found(self, session: Session, initial_state: InitialState | None, now: float) -> None:
        """Supplies the initial state of an awaited session; `None`: the model's initial state."""
        row = session.slot.index
        self.inits.settle(row)
        self._initialize(session, initial_state)
        self.table.keep(row, session.cadence or Cadence(), now)
        if session.phase is Phase.IDLE:
            self._go_on(session)

    def _initialize(self, session: Session, initial_state: InitialState | None) -> None:
        """Gives a session its initial state; `None`: the model's."""
        row = session.slot.index
        if isinstance(initial_state, Snapshot):
            session.first = self.table.position[row] = initial_state.position
            if initial_state.tensors is None:
                initial_state = None
        if initial_state is None:
            self.table.begin(row)
        else:
            self.inits.add(row, initial_state)

    # Closing.

    def close(self, session: Session, ending: Ending) -> bool:
        """Ends a session once its queue is answered. Returns True if the session ends now."""
        row = session.slot.index
        if session.closing is None:
            session.closing = ending
            self.table.leave(row, Stage.CLOSING)
        if session.unanswered or session.awaited:
            return False
        if session.hands_over or self.table.asked(row):
            self._hand_over(session)
            return False
        self.end(session, session.closing)
        return True

    def cut(self, session: Session, ending: Ending) -> bool:
        """Drops a session's queue and ends the session after in-flight work. A session that is
        already closing because of an error keeps the first ending. Returns True if the session ends
        now."""
        row = session.slot.index
        if session.closing is None or session.closing.reason is FINISHED.reason:
            session.closing = ending
            self.table.leave(row, Stage.CLOSING)
        self._drop_elements(row)
        if session.keeping is not None:  # a client may wait for the checkpoint
            self.table.leave(row, Stage.CUT)
            self.captures.hasten(row)
        if session.phase in (Phase.STEPPING, Phase.CAPTURING):
            return False
        if session.hands_over and session.phase not in NO_STATE:
            self._hand_over(session)
            return False
        self.end(session, session.closing.without_snapshot)
        return True

    def end(self, session: Session, ending: Ending) -> None:
        """Ends a session now and drops its queue."""
        if session.ended is not None:
            return
        row = session.slot.index
        self._drop_elements(row)
        self.inits.forget(row)
        self.captures.forget(row)
        session.end(ending)
        self.table.leave(row, Stage.ENDED)
        self.sessions.discard(session)
        # A job writes to the slot at its end, so the slot is freed only then.
        if int(self.table.phase[row]) not in IN_JOB:
            self._free(row)

    def snapshot(self, session: Session) -> None:
        """Has a session's snapshot taken once all pushed elements are answered."""
        row = session.slot.index
        self.table.ask(row, session.position + session.unanswered)
        if session.phase is Phase.IDLE:
            self.captures.add(row)

    # After a job.

    def complete(self, rows: Rows, counts: Numbers, now: float) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions ended by the step."""
        table = self.table
        table.in_flight[rows] = 0
        table.phase[rows] = IDLE
        table.position[rows] += counts
        if table.starters:
            table.started(rows)
        if table.parkables:
            table.active[rows] = now
        waiting = table.waiting[rows]
        left = self._left(rows, waiting) if table.leavers else []
        more = waiting > 0
        if table.watched:
            due = table.whose_due(rows, now)
            if np.count_nonzero(due):
                for row in rows[due].tolist():
                    self.captures.add(row)
                more &= ~due
        if np.count_nonzero(more):
            self.ready.append(rows[more], waiting[more])
        return left

    def captured(
        self, rows: Sequence[int], tensors: Tensors | None, now: float
    ) -> tuple[list[tuple[Session, Snapshot]], list[Session]]:
        """Releases the sessions of a finished capture. `tensors`: the states of the slots, or
        `None` if the capture failed. Returns the snapshots, and the sessions ended by the
        capture."""
        table = self.table
        snapshots: list[tuple[Session, Snapshot]] = []
        ended: list[Session] = []
        for i, row in enumerate(rows):
            session = self._back(row)
            if session is None:
                continue
            table.taken(row, now)
            if tensors is not None:
                # A copy, so that one unread snapshot does not keep the whole array alive.
                own = None if table.fresh[row] else tuple(array[i].copy() for array in tensors)
                snapshots.append((session, Snapshot(position=session.position, tensors=own)))
            if session.pending:
                self.ready.append_one(row, session.pending)
            elif session.closing is not None:
                closing = session.closing
                self.end(session, closing if tensors is not None else closing.without_snapshot)
                ended.append(session)
        return snapshots, ended

    def initialized(self, rows: Iterable[int]) -> None:
        """Has sessions go on after their slots have got a state."""
        for row in rows:
            self.inits.settle(row)
            if (session := self._back(row)) is not None:
                self._go_on(session)

    def fail(self, rows: Iterable[int], ending: Ending) -> list[Session]:
        """Ends every session of a failed job. Returns the sessions ended by the failure."""
        failed = []
        for row in rows:
            self.inits.settle(row)
            self.table.in_flight[row] = 0
            if (session := self._back(row)) is not None:
                self.end(session, ending)
                failed.append(session)
        return failed

    def _back(self, row: int) -> Session | None:
        """Takes a slot back from a job. Returns the session; `None` if it has ended meanwhile."""
        session = self._by_row[row]
        if session.ended is not None:
            self._free(row)
            return None
        self.table.phase[row] = IDLE
        return session

    def _left(self, rows: Rows, waiting: Numbers) -> list[Session]:
        """Returns sessions that end with a step. Frees the slots of sessions that ended
        meanwhile."""
        stage = self.table.stage[rows]
        for row in rows[stage == ENDED].tolist():
            self._free(row)
        closing = (stage > OPEN) & (stage < ENDED) & (waiting == 0)
        ended = []
        for session in self.of(rows[closing].tolist()):
            if session.hands_over or self.table.asked(session.slot.index):
                self.captures.add(session.slot.index)
            else:
                self.end(session, session.closing or FINISHED)
                ended.append(session)
        return ended

    def _go_on(self, session: Session) -> None:
        """Queues a session with a new state for the next work due."""
        row = session.slot.index
        if self.table.due[row] <= session.position:
            self.captures.add(row)
        elif session.pending:
            self.ready.append_one(row, session.pending)
        elif session.closing is not None:
            self.captures.add(row)

    def _hand_over(self, session: Session) -> None:
        """Queues a closing session for its last snapshot. If the session has no state yet, `_go_on`
        does so later."""
        if session.phase not in NO_STATE:
            self.captures.add(session.slot.index)

    def _drop_elements(self, row: int) -> None:
        outbox = self.table.receiver_of(row).outbox
        outbox.pending -= int(self.table.waiting[row])
        self.queues.clear(row)
        if not outbox.pending:
            self.holds.forget(outbox)

    def _free(self, row: int) -> None:
        self.table.remove(row)
        self.pool.free(self._by_row.pop(row).slot)
