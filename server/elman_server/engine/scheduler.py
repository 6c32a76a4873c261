"""The scheduler: chooses the next job, and the sessions and elements of the next step.

Pure and synchronous: time is an argument, slots are numbers, and the model's computation happens
elsewhere. A session with `2^k` to `2^(k+1) - 1` elements on entering the ready queue waits in line
`k`. A step is filled from all lines in order, and the lines take turns at being first. So the head
of a line waits for at most one bounded step of each other line, however many elements other
sessions push. Sessions without a state yet wait in a separate queue, and so do sessions with a
snapshot due.
"""

from collections.abc import Sequence

import numpy as np

from elman_server.engine.arrays import Elements, Numbers, Rows
from elman_server.engine.jobs.batch_builder import BatchBuilder
from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.job import Job, Result
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.jobs.settled import Settled
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.limits import Seconds, StepLimits
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.queues.element_queues import gathered
from elman_server.engine.sessions.ending import CANCELLED, FINISHED, Ending
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.phase import IDLE, QUEUED
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Snapshot


class Scheduler:
    """Queues the elements of a model's sessions, and makes jobs of them."""

    def __init__(
        self, limits: StepLimits, seconds: Seconds = lambda rows, chunk: rows * chunk * 1e-6
    ) -> None:
        """`seconds(rows, chunk)` estimates the model's seconds for a step."""
        self.limits = limits
        self.lifecycle = lifecycle = Lifecycle(limits.longest_chunk)
        self.table = lifecycle.table
        self._queues = lifecycle.queues
        self._ready = lifecycle.ready
        self._builder = BatchBuilder(
            limits,
            seconds,
            table=self.table,
            queues=self._queues,
            ready=self._ready,
            holds=lifecycle.holds,
        )
        self._turn = 0
        self._max_captures = min(limits.max_batch_size, limits.max_capture_batch_size)

    @property
    def sessions(self) -> set[Session]:
        """All open and closing sessions."""
        return self.lifecycle.sessions

    @property
    def slots(self) -> int:
        """Rows of state in use."""
        return self.lifecycle.pool.used

    @property
    def pending(self) -> int:
        """Elements of all sessions waiting for a step."""
        return len(self._queues)

    @property
    def backlog(self) -> int:
        """Elements waiting for a step, without the elements held for a caller that does not
        read."""
        return self.pending - self.lifecycle.holds.elements

    @property
    def context_nbytes(self) -> int:
        """Bytes of contexts and snapshots of sessions without a ready state."""
        return self.lifecycle.inits.nbytes

    def add(self, request: OpenRequest, *, id: str, now: float = 0.0) -> Session:
        """Returns a new session. With an initial state in the request, the session's elements wait
        until the slot holds the state. If awaited, the elements wait for `found`."""
        return self.lifecycle.add(request, id=id, now=now)

    def found(self, session: Session, initial_state: InitialState | None, now: float) -> None:
        """Supplies the initial state of an awaited session; `None`: the model's initial state."""
        self.lifecycle.found(session, initial_state, now)

    def idle(self, since: float) -> list[Session]:
        """Returns parkable sessions without work since the time `since`."""
        return self.lifecycle.of(self.table.idle(since).tolist())

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
            if table.phase[row] == IDLE:
                # More elements of the same session may follow.
                table.phase[row] = QUEUED
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
        idle = table.phase[rows] == IDLE
        newcomers = np.count_nonzero(idle)
        if newcomers == len(rows):
            self._ready.append(rows, waiting)
        elif newcomers:
            self._ready.append(rows[idle], waiting[idle])
        return int(np.maximum.reduce(waiting + table.in_flight[rows]))

    def close(self, session: Session, ending: Ending = FINISHED) -> bool:
        """Ends a session once its queue is answered. Returns True if the session ends now."""
        return self.lifecycle.close(session, ending)

    def cut(self, session: Session, ending: Ending) -> bool:
        """Drops a session's queue and ends the session after in-flight work. A session that is
        already closing because of an error keeps the first ending. Returns True if the session ends
        now."""
        return self.lifecycle.cut(session, ending)

    def snapshot(self, session: Session) -> None:
        """Has a session's snapshot taken once all pushed elements are answered."""
        self.lifecycle.snapshot(session)

    def abort(self, session: Session, ending: Ending = CANCELLED) -> None:
        """Ends a session now and drops its queue. Predictions of an in-flight step are
        discarded."""
        self.lifecycle.end(session, ending)

    def release(self, outbox: Outbox) -> bool:
        """Releases sessions held because of a full outbox. Returns whether there were any."""
        captures = self.lifecycle.captures.release(outbox)
        return self.lifecycle.holds.release(outbox) or captures

    @property
    def ready(self) -> bool:
        """Whether some session is ready for a step, for its first state or for a snapshot."""
        lifecycle = self.lifecycle
        return self._ready.sessions > 0 or bool(lifecycle.inits) or bool(lifecycle.captures)

    @property
    def full(self) -> bool:
        """Whether enough sessions are ready to make the next step ahead of time."""
        return self._builder.full

    def schedule(self, *, idle: bool = False) -> Job | None:
        """Takes the next job out of the queues; `None` if no session is ready. `idle`: whether the
        model had no work before."""
        captures, inits = self.lifecycle.captures, self.lifecycle.inits
        if captures and (rows := captures.take(self._max_captures)):
            return CaptureJob(slots=rows)
        # The last number stands for the queue of sessions without a state.
        lines = len(self._ready) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._ready):
                if inits:
                    self._turn = 0
                    return self._init_job()
            elif self._ready.of(line) and (batch := self._builder.take(line, idle)) is not None:
                self._turn = line + 1
                return batch
        return None

    def settle(self, result: Result) -> Settled:
        """Puts a job's results where they belong, and has its sessions go on."""
        return result.settle(self.lifecycle)

    def _init_job(self) -> InitJob | RestoreJob:
        states = self.lifecycle.inits.take(
            contexts=self.limits.max_init_batch_size, snapshots=self._max_captures
        )
        slots = list(states)
        snapshots = [state for state in states.values() if isinstance(state, Snapshot)]
        if snapshots:
            return RestoreJob(slots=slots, snapshots=snapshots)
        contexts = [state for state in states.values() if not isinstance(state, Snapshot)]
        return InitJob(slots=slots, contexts=contexts)
