"""The scheduler: which sessions share the next step, and with how many elements each.

Pure and synchronous: time is an argument, slots are numbers, and what a step computes is not its
business. Each step takes sessions whose queues are of like length, in turn, because a step costs
(longest chunk) x (rows) with the padding included: sessions with `2^k` to `2^(k+1) - 1` waiting
elements stand in line `k`, and the lines are served in rotation. So the head of a line waits for
at most one bounded step of each other line, however much others have pushed, and at least half of
what a step computes is wanted. Sessions that have yet to begin stand in a line of their own.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from elman_server.engine.batch import Arrival, Batch, Elements, Selection, Share, Shares
from elman_server.engine.beginning import Beginners, Beginning, Contexts, Start
from elman_server.engine.outbox import Outbox
from elman_server.engine.session import (
    CANCELLED,
    FINISHED,
    Ending,
    Session,
)
from elman_server.engine.state_pool import StatePool


class Chunking(Enum):
    """How many elements of a session may go through one step."""

    SINGLE = "single"
    """One: the graph takes no time axis."""
    EQUAL = "equal"
    """Several, as many for each row: the graph takes a time axis, but no lengths."""
    RAGGED = "ragged"
    """Several, each row its own number: the graph takes lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_batch_size: int
    """Rows of a step."""
    max_step_elements: int
    """Rows x chunk of a step."""
    max_chunk: int
    """Elements of a row."""
    chunking: Chunking
    max_beginning: int = 1
    """Sessions that begin together."""

    @property
    def longest_chunk(self) -> int:
        if self.chunking is Chunking.SINGLE:
            return 1
        return min(self.max_chunk, self.max_step_elements)


class Scheduler:
    """Owns the sessions of one model, their queues and their slots."""

    def __init__(self, limits: StepLimits) -> None:
        self.limits = limits
        self.pool = StatePool()
        self.pending = 0
        """Elements that wait for a step, of all sessions."""
        self.sessions: set[Session] = set()
        """All that have not ended."""
        self._longest_chunk = limits.longest_chunk
        self._lines: list[deque[Session]] = [
            deque() for _ in range(self._longest_chunk.bit_length())
        ]
        self._full_rows = [
            min(limits.max_batch_size, max(1, limits.max_step_elements // (2 << line)))
            for line in range(len(self._lines))
        ]
        self._beginners = Beginners()
        self._turn = 0
        self._held: set[Outbox] = set()

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
            id=id, number=number, outbox=outbox, selection=selection, slot=self.pool.allocate()
        )
        self.sessions.add(session)
        if contexts is not None:
            session.waiting = True
            self._beginners.add(session, contexts)
        return session

    def push(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, now: float
    ) -> int:
        """Queues elements `[sum(counts), *shape]`: `counts[i]` for `sessions[i]`, in their order.

        The sessions have the same outbox, and none is closing or has ended. Returns the largest
        number of elements that one of them now has waiting or in a step.
        """
        arrival = Arrival(elements, now)
        start = most = 0
        for session, count in zip(sessions, counts, strict=True):
            if not count:
                continue
            stop = start + count
            session.queue.append((arrival, start, stop))
            session.pending = pending = session.pending + count
            start = stop
            if session.in_flight:
                pending += session.in_flight
            elif not session.waiting:
                self._line_up(session)
            if pending > most:
                most = pending
        if start:
            sessions[0].outbox.pending += start
            self.pending += start
        return most

    def close(self, session: Session, ending: Ending = FINISHED) -> bool:
        """Ends a session once its queue is answered. True if that is now."""
        if session.closing is None:
            session.closing = ending
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
        for session in held:
            session.waiting = False
            if session.ended is None:
                self._line_up(session)

    @property
    def ready(self) -> bool:
        """Whether some session stands in line."""
        return any(self._lines) or bool(self._beginners)

    @property
    def full(self) -> bool:
        """Whether enough sessions stand in some line to fill a step."""
        return any(
            len(line) >= rows for line, rows in zip(self._lines, self._full_rows, strict=True)
        )

    def schedule(self) -> Batch | Beginning | None:
        """Takes the next batch out of the queues, or the next sessions that begin; None if nobody
        is ready."""
        # The beginners' line is the last.
        lines = len(self._lines) + 1
        for offset in range(lines):
            line = (self._turn + offset) % lines
            if line == len(self._lines):
                beginning = self._beginners.take(self.limits.max_beginning)
                if beginning is not None:
                    self._turn = 0
                    return beginning
            elif self._lines[line] and (batch := self._take(line)) is not None:
                self._turn = line + 1
                return batch
        return None

    def complete(self, batch: Batch) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions that ended with it."""
        ended = []
        for session, count in zip(batch.sessions, batch.counts, strict=True):
            session.in_flight = 0
            if session.ended is not None:
                self.pool.free(session.slot)
                continue
            session.position += count
            if session.pending:
                self._line_up(session)
            elif session.closing is not None:
                self._end(session, session.closing)
                ended.append(session)
        return ended

    def begun(self, beginning: Beginning) -> None:
        """Lets sessions go on that have a state in their slots now."""
        self._beginners.settle(beginning)
        for session in beginning.sessions:
            session.waiting = False
            if session.ended is not None:
                self.pool.free(session.slot)
            elif session.pending:
                self._line_up(session)

    def fail(self, work: Batch | Beginning, ending: Ending) -> list[Session]:
        """Ends every session of a step or beginning that failed. Returns those that it ended."""
        if isinstance(work, Beginning):
            self._beginners.settle(work)
        failed = []
        for session in work.sessions:
            session.in_flight = 0
            if session.ended is not None:
                self.pool.free(session.slot)
            else:
                self._end(session, ending)
                failed.append(session)
        return failed

    def _line_up(self, session: Session) -> None:
        session.waiting = True
        length = min(session.pending, self._longest_chunk)
        self._lines[length.bit_length() - 1].append(session)

    def _take(self, line: int) -> Batch | None:
        """The next sessions of a line, with as many elements as fit into a step."""
        waiting, limits = self._lines[line], self.limits
        longest = min((2 << line) - 1, self._longest_chunk)
        if limits.chunking is not Chunking.RAGGED:
            longest = 1 << line
        sessions: list[Session] = []
        counts: list[int] = []
        shares: list[Share] = []
        ends: list[int] = []
        chunk = 0
        looked_at: Outbox | None = None
        while waiting and len(sessions) < limits.max_batch_size:
            session = waiting[0]
            outbox = session.outbox
            if session.ended is not None:
                waiting.popleft()
                continue
            if outbox is not looked_at:
                if outbox.full:
                    self._held.add(outbox)
                    outbox.held.append(waiting.popleft())
                    continue
                looked_at = outbox
            pending = session.pending
            count = pending if pending < longest else longest
            if count > chunk:
                if sessions and count * (len(sessions) + 1) > limits.max_step_elements:
                    break
                chunk = count
            elif chunk * (len(sessions) + 1) > limits.max_step_elements:
                break
            waiting.popleft()
            session.waiting = False
            session.in_flight = count
            session.pending = pending - count
            outbox.pending -= count
            queue = session.queue
            _, start, stop = queue[0]
            if stop - start == count:
                shares.append(queue.popleft())
            else:
                _cut(queue, count, shares)
            ends.append(len(shares))
            sessions.append(session)
            counts.append(count)
        if not sessions:
            return None
        self.pending -= sum(counts)
        return Batch(
            sessions=sessions,
            slots=[session.slot.index for session in sessions],
            counts=counts,
            chunk=chunk,
            shares=Shares(shares, ends),
            fresh=[
                row
                for row, session in enumerate(sessions)
                if not session.position and session.start is Start.INITIAL
            ],
            outputs=_wanted(sessions),
        )

    def _end(self, session: Session, ending: Ending) -> None:
        if session.ended is not None:
            return
        session.ended = ending
        session.outbox.pending -= session.pending
        self.pending -= session.pending
        session.pending = 0
        session.queue.clear()
        if not session.outbox.pending:
            self._held.discard(session.outbox)
        self.sessions.discard(session)
        if session.contexts is not None:
            self._beginners.drop(session)
        # A slot that is in a step is written to when the step ends, so it is freed only then.
        if not session.in_flight and session.start is not Start.UNDER_WAY:
            self.pool.free(session.slot)


def _cut(queue: deque[Share], count: int, shares: list[Share]) -> None:
    """Moves the first `count` elements of a queue to `shares`."""
    while count:
        arrival, start, stop = queue[0]
        if stop - start <= count:
            shares.append(queue.popleft())
            count -= stop - start
        else:
            shares.append((arrival, start, start + count))
            queue[0] = arrival, start + count, stop
            return


def _wanted(sessions: Iterable[Session]) -> frozenset[str]:
    """The outputs that some session wants."""
    wanted: frozenset[str] = frozenset()
    known: Selection | None = None
    for session in sessions:
        if session.selection is not known:
            known = session.selection
            wanted |= known.names
    return wanted
