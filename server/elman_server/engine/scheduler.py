"""The scheduler: which sessions share the next step, and with how many elements each.

Pure and synchronous: time is an argument, slots are numbers, and what a step computes is not its
business. Each step takes sessions whose queues are of like length, in turn, because a step costs
(longest chunk) x (rows) with the padding included: sessions with `2^k` to `2^(k+1) - 1` waiting
elements stand in line `k`, and the lines are served in rotation. So the head of a line waits for
at most one bounded step of each other line, however much others have pushed, and at least half of
what a step computes is wanted. Sessions that have yet to begin stand in a line of their own.

What a session puts into its next step is settled when it lines up; what is pushed later waits in
its queue until that step is done. So sessions that were pushed to together move together, as one
group, and no step looks at each of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrivals import Arrival, Elements, Runs, Share, joined
from elman_server.engine.batch import Batch, Part
from elman_server.engine.beginning import Beginners, Beginning, Contexts, Start
from elman_server.engine.delivery import Selection
from elman_server.engine.lines import Group, Line
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.queues import Queues
from elman_server.engine.session import CANCELLED, FINISHED, Ending, Session
from elman_server.engine.state_pool import StatePool
from elman_server.engine.table import CLOSING, ENDED, IN_STEP, NOWHERE, Numbers, Rows, SessionTable

_ONE = np.array([1])
"""The counts of most groups of one."""
_ONE.setflags(write=False)


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
        self.table = SessionTable()
        self._queues = Queues()
        self.pending = 0
        """Elements that wait for a step, of all sessions."""
        self.sessions: set[Session] = set()
        """All that have not ended."""
        self._longest_chunk = limits.longest_chunk
        self._lines = [Line(self.table) for _ in range(self._longest_chunk.bit_length())]
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
        table, arrival = self.table, Arrival(elements, now)
        start = most = 0
        for session, count in zip(sessions, counts, strict=True):
            if not count:
                continue
            row, stop = session.slot.index, start + count
            self._queues.append(row, (arrival, start, stop))
            start = stop
            unanswered = int(table.unanswered[row]) + count
            table.unanswered[row] = unanswered
            most = max(most, unanswered)
            session.outbox.pending += count
            self.pending += count
        for session in sessions:
            row = session.slot.index
            if row in self._queues and table.place[row] == NOWHERE:
                self._line_up_one(session)
        return most

    def push_rows(
        self, receiver: Receiver, rows: Rows, counts: Numbers, elements: Elements, now: float
    ) -> int:
        """The same for many sessions with the same receiver, named by their slots' indices, each of
        them once, with elements for each."""
        table = self.table
        unanswered = table.unanswered[rows] + counts
        table.unanswered[rows] = unanswered
        receiver.outbox.pending += len(elements)
        self.pending += len(elements)
        runs = Runs([(Arrival(elements, now), 0, len(elements))])
        busy = table.place[rows] != NOWHERE
        if np.count_nonzero(busy):
            self._queue_behind(rows, counts, runs, busy)
            (idle,) = (~busy).nonzero()
            rows, counts, runs = rows[idle], counts[idle], runs.rows(counts, idle)
        if len(rows):
            self._line_up_rows(receiver, rows, counts, runs)
        return int(np.maximum.reduce(unanswered))

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
        for group in held:
            present = group.present(self.table)
            if present.size:
                self._append(present)

    @property
    def ready(self) -> bool:
        """Whether some session stands in line."""
        return any([line.length for line in self._lines]) or bool(self._beginners)

    @property
    def full(self) -> bool:
        """Whether enough sessions stand in some line to fill a step."""
        return any(
            [line.length >= rows for line, rows in zip(self._lines, self._full_rows, strict=True)]
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
            elif self._lines[line].length and (batch := self._take(line)) is not None:
                self._turn = line + 1
                return batch
        return None

    def complete(self, batch: Batch) -> list[Session]:
        """Counts a step's elements as answered. Returns the sessions that ended with it."""
        table, rows = self.table, batch.slots
        table.in_flight[rows] = 0
        table.place[rows] = NOWHERE
        table.position[rows] += batch.counts
        unanswered = table.unanswered[rows] - batch.counts
        table.unanswered[rows] = unanswered
        if table.starters:
            table.started(rows)
        if np.count_nonzero(unanswered):
            for part in batch.parts:
                own = slice(part.start, part.stop)
                self._line_up(part.receiver, table.of(rows[own][unanswered[own] > 0]))
        return self._left(batch, unanswered) if table.leavers else []

    def begun(self, beginning: Beginning) -> None:
        """Lets sessions go on that have a state in their slots now."""
        self._beginners.settle(beginning)
        for session in beginning.sessions:
            if session.ended is not None:
                self._free(session)
                continue
            self.table.place[session.slot.index] = NOWHERE
            if session.slot.index in self._queues:
                self._line_up_one(session)

    def fail(self, work: Batch | Beginning, ending: Ending) -> list[Session]:
        """Ends every session of a step or beginning that failed. Returns those that it ended."""
        if isinstance(work, Beginning):
            self._beginners.settle(work)
        else:
            self.table.unanswered[work.slots] -= work.counts
            self.table.in_flight[work.slots] = 0
        failed = []
        for session in work.sessions:
            if session.ended is not None:
                self._free(session)
            else:
                self._end(session, ending)
                failed.append(session)
        return failed

    def _left(self, batch: Batch, unanswered: Numbers) -> list[Session]:
        """Those who end with a step. Who ended while it ran is forgotten."""
        leaving = self.table.leaving[batch.slots]
        for session in self.table.of(batch.slots[leaving == ENDED]):
            self._free(session)
        ending = self.table.of(batch.slots[(leaving == CLOSING) & (unanswered == 0)])
        for session in ending:
            self._end(session, session.closing or FINISHED)
        return ending

    def _queue_behind(
        self, rows: Rows, counts: Numbers, runs: Runs, busy: NDArray[np.bool_]
    ) -> None:
        """Elements for sessions that wait or are part of a step already."""
        ((arrival, _, _),) = runs.shares
        stops = np.cumsum(counts)
        for row, start, stop in zip(
            rows[busy].tolist(), (stops - counts)[busy].tolist(), stops[busy].tolist(), strict=True
        ):
            self._queues.append(row, (arrival, start, stop))

    def _line_up(self, receiver: Receiver, sessions: Iterable[Session]) -> None:
        """Sessions whose elements all are in their queues, each in the line of its length."""
        lines: dict[int, tuple[list[int], list[int], list[Share]]] = {}
        for session in sessions:
            row = session.slot.index
            length = self._length(row)
            rows, counts, shares = lines.setdefault(length.bit_length(), ([], [], []))
            rows.append(row)
            counts.append(length)
            shares += self._queues.take(row, length)
        for rows, counts, shares in lines.values():
            runs = Runs(joined(shares))
            self._append(Group(receiver, np.array(rows), np.array(counts), runs, chunk=max(counts)))

    def _line_up_one(self, session: Session) -> None:
        """The same for one, as comes of those that do not multiplex."""
        row = session.slot.index
        length = self._length(row)
        counts = _ONE if length == 1 else np.array([length])
        runs = Runs(self._queues.take(row, length))
        self._append(Group(session.receiver, np.array([row]), counts, runs, chunk=length))

    def _length(self, row: int) -> int:
        """How many elements a session that waits puts into a step."""
        length = min(int(self.table.unanswered[row]), self._longest_chunk)
        ragged = self.limits.chunking is Chunking.RAGGED
        return length if ragged else 1 << (length.bit_length() - 1)

    def _line_up_rows(self, receiver: Receiver, rows: Rows, counts: Numbers, runs: Runs) -> None:
        """The same for sessions whose elements are at hand instead, and their queues empty."""
        least, most = int(np.minimum.reduce(counts)), int(np.maximum.reduce(counts))
        alike = least.bit_length() == most.bit_length()
        if self.limits.chunking is not Chunking.RAGGED:
            alike = least == most == 1 << (least.bit_length() - 1)
        if alike and most <= self._longest_chunk:
            self._append(Group(receiver, rows, counts, runs, chunk=most))
            return
        # Of different lines, or too long for a step.
        ends = np.cumsum(counts)
        for row, start, stop in zip(
            rows.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True
        ):
            for share in runs.part(start, stop).shares:
                self._queues.append(row, share)
        self._line_up(receiver, self.table.of(rows))

    def _append(self, group: Group) -> None:
        """Puts a group into the line of its counts."""
        self.table.place[group.rows] = group.id
        self._lines[group.chunk.bit_length() - 1].append(group)

    def _take(self, line: int) -> Batch | None:
        """The next sessions of a line, with as many elements as fit into a step."""
        waiting, most = self._lines[line], self.limits.max_batch_size
        groups: list[Group] = []
        rows = chunk = 0
        while rows < most and (group := waiting.pop()) is not None:
            outbox = group.receiver.outbox
            if outbox.full:
                self._held.add(outbox)
                outbox.held.append(group)
                continue
            fitting = self._fitting(group, rows, chunk)
            if fitting < group.size:
                group, rest = group.split(fitting)
                waiting.put_back(rest)
                if not fitting:
                    break
            groups.append(group)
            rows += fitting
            chunk = max(chunk, group.chunk)
        return self._batch(groups) if groups else None

    def _fitting(self, group: Group, rows: int, chunk: int) -> int:
        """How many of a group a step takes in addition to `rows` of at most `chunk`."""
        most, budget = self.limits.max_batch_size, self.limits.max_step_elements
        if rows + group.size <= most and max(chunk, group.chunk) * (rows + group.size) <= budget:
            return group.size
        counts = group.counts[: most - rows]
        chunks = np.maximum(np.maximum.accumulate(counts), chunk)
        over = chunks * np.arange(rows + 1, rows + 1 + len(counts)) > budget
        return int(over.argmax()) if np.count_nonzero(over) else len(counts)

    def _batch(self, groups: list[Group]) -> Batch:
        table = self.table
        rows = _whole([group.rows for group in groups])
        counts = _whole([group.counts for group in groups])
        table.place[rows] = IN_STEP
        table.in_flight[rows] = counts
        parts: list[Part] = []
        names: frozenset[str] = frozenset()
        start = 0
        for group in groups:
            receiver = group.receiver
            elements = len(group.runs)
            receiver.outbox.pending -= elements
            self.pending -= elements
            names |= receiver.selection.names
            parts.append(Part(receiver, start, start + group.size))
            start += group.size
        return Batch(
            table=table,
            slots=rows,
            counts=counts,
            chunk=int(np.maximum.reduce(counts)),
            runs=Runs.joined([group.runs for group in groups]),
            parts=parts,
            fresh=table.fresh[rows].nonzero()[0].tolist() if table.starters else [],
            outputs=names,
        )

    def _end(self, session: Session, ending: Ending) -> None:
        if session.ended is not None:
            return
        table, row = self.table, session.slot.index
        waiting = session.pending
        session.outbox.pending -= waiting
        self.pending -= waiting
        session.end(ending)
        self._queues.clear(row)
        table.leave(row, ENDED)
        if not session.outbox.pending:
            self._held.discard(session.outbox)
        self.sessions.discard(session)
        if session.contexts is not None:
            self._beginners.drop(session)
        in_flight = table.in_flight[row]
        table.unanswered[row] = in_flight
        if not in_flight:
            table.place[row] = NOWHERE
        # A slot that is in a step is written to when the step ends, so it is freed only then.
        if not in_flight and session.start is not Start.UNDER_WAY:
            self._free(session)

    def _free(self, session: Session) -> None:
        self.table.remove(session.slot.index)
        self.pool.free(session.slot)


def _whole(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
