"""Whatever callers do and in whatever order, the pure core keeps its promises."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from elman_server.engine.arrays import Rows
from elman_server.engine.jobs.batch import Batch, deliveries
from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.job import Job
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.engine.outboxes.delivery import Delivery, Outputs
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import CANCELLED, FINISHED, Ending, EndReason
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.phase import Phase
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.session_index import SessionIndex
from elman_server.engine.sessions.snapshot import NEVER, Cadence, Snapshot, Tensors
from tests.server.fakes import (
    INITIAL,
    ArithmeticRunner,
    FakeSelection,
    complete,
    ids,
    numbers,
    predicted,
    seed,
    slots_of,
)

FAILED = Ending(reason=EndReason.STEP_FAILED, message="the step failed")
INVALID = Ending(reason=EndReason.INVALID_ELEMENT, message="no such element")
SHUTDOWN = Ending(reason=EndReason.SHUTDOWN, message="stopping")
MOVED = Ending(reason=EndReason.MOVED, message="moved")

SELECTIONS = (
    FakeSelection(),
    FakeSelection(frozenset({"negated"})),
    FakeSelection(frozenset({"sum", "negated"}), element_nbytes=16),
)


class Kept:
    """A `Keeping` that nobody asks."""

    def snapshot(self, snapshot: Snapshot) -> None: ...

    def ended(self) -> None: ...


@dataclass
class Truth:
    """What a session was given and what it got back, counted by the test itself."""

    session: Session
    initial: int | None
    """The state that it begins with; None for the model's own."""
    cadence: Cadence
    first: int = 0
    """The position that it begins at."""
    restored: bool = False
    kept: bool = False
    awaited: bool = False
    """Whether it is still to be found what it begins from."""
    queued: int = 0
    """In which order it came to stand in line to begin."""
    begun: bool = False
    due: int = NEVER
    asked: list[int] = field(default_factory=list)
    """Positions of which a snapshot is still to be taken."""
    due_time: float = inf
    due_from: int = 0
    read: bool = False
    """Whether its snapshot is to be taken before anything else is done with it."""
    hastened: bool = False
    """Whether that does not wait for its outbox to be emptied: somebody else waits for its end."""
    snapshots: list[Snapshot] = field(default_factory=list)
    pushed: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    taken: int = 0
    """Elements that went into a step."""
    received: int = 0
    endings: list[Ending] = field(default_factory=list)
    cut_short: bool = False
    """Aborted, or in a step that failed."""

    @property
    def live(self) -> bool:
        return not self.endings

    @property
    def hands_over(self) -> bool:
        return self.kept or self.session.closing is MOVED

    @property
    def moves(self) -> bool:
        """Whether it is read before it ends, unless it is cut."""
        return self.hands_over or bool(self.asked)

    @property
    def position(self) -> int:
        """Of what comes next, as long as it is in no step."""
        return self.first + self.taken

    def taken_at(self, now: float) -> None:
        """Its snapshot."""
        self.asked = [position for position in self.asked if position > self.position]
        self.schedule(now)

    def schedule(self, now: float) -> None:
        self.due = min(self.position + self.cadence.elements, NEVER, *self.asked[:1])
        self.due_time = now + self.cadence.seconds
        self.due_from = self.position + self.cadence.least

    def state_at(self, position: int) -> int | None:
        if position == self.first:
            return self.initial
        return predicted(self.pushed, INITIAL if self.initial is None else self.initial)[
            position - self.first - 1
        ]

    @property
    def waiting(self) -> int:
        return len(self.pushed) - self.taken if self.live else 0


@dataclass
class Step:
    """A step that runs, or a beginning, or a reading."""

    work: Job
    sessions: list[Session]
    outputs: Outputs | Tensors | None
    """None: the runner gets to it only when the step ends."""


cadences = st.builds(
    Cadence,
    elements=st.just(NEVER) | st.integers(1, 20),
    seconds=st.just(inf) | st.integers(1, 20).map(float),
    least=st.integers(1, 5),
)
limits = st.builds(
    StepLimits,
    max_batch_size=st.integers(1, 5),
    max_step_elements=st.integers(1, 40),
    max_chunk=st.integers(1, 12),
    chunking=st.sampled_from(Chunking),
    max_init_batch_size=st.integers(1, 3),
)


class Schedules(RuleBasedStateMachine):
    sessions: Bundle[Truth] = Bundle("sessions")

    @initialize(limits=limits)
    def begin(self, limits: StepLimits) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits)
        self.runner = ArithmeticRunner()
        self.outboxes = [
            Outbox(limit=limit, notify=lambda: None) for limit in (float("inf"), 1, 100)
        ]
        self.session_indexes = [
            SessionIndex(self.scheduler.table, outbox) for outbox in self.outboxes
        ]
        self.truths: dict[Session, Truth] = {}
        self.steps: list[Step] = []
        self.snapshots: list[tuple[Truth, Snapshot]] = []
        self.clock = 0.0
        self.queued = 0
        self.next_element = 1

    # What callers do.

    @rule(
        target=sessions,
        outbox=st.integers(0, 2),
        selection=st.sampled_from(SELECTIONS),
        initial=st.none() | st.integers(0, 1000),
        cadence=st.none() | cadences,
        kept=st.booleans(),
    )
    def open(
        self,
        outbox: int,
        selection: FakeSelection,
        initial: int | None,
        cadence: Cadence | None,
        kept: bool,
    ) -> Truth:
        given = None if initial is None else seed(initial)
        truth = self.opened(outbox, selection, given, cadence, initial, 0)
        if kept:
            self.keep(truth)
        return truth

    def keep(self, truth: Truth) -> None:
        truth.kept = True
        truth.session.keeping = Kept()

    @rule(
        target=sessions,
        outbox=st.integers(0, 2),
        selection=st.sampled_from(SELECTIONS),
        cadence=st.none() | cadences,
    )
    def open_awaited(self, outbox: int, selection: FakeSelection, cadence: Cadence | None) -> Truth:
        truth = self.opened(outbox, selection, None, cadence, None, 0, awaited=True)
        truth.awaited = True
        truth.due = NEVER
        return truth

    @rule(
        truth=sessions,
        initial=st.none() | st.integers(0, 1000),
        which=st.none() | st.integers(0, 1000),
    )
    def find_what_it_begins_from(
        self, truth: Truth, initial: int | None, which: int | None
    ) -> None:
        if not truth.live or not truth.awaited:
            return
        given: InitialState | None = None if initial is None else seed(initial)
        if which is not None and self.snapshots:
            source, given = self.snapshots[which % len(self.snapshots)]
            initial, truth.first = source.state_at(given.position), given.position
            truth.restored = True
        self.keep(truth)
        self.scheduler.found(truth.session, given, self.clock)
        truth.asked = [asked + truth.first for asked in truth.asked]
        truth.awaited, truth.initial, truth.queued = False, initial, self.next_queued()
        truth.schedule(self.clock)
        if initial is None:
            truth.read = self.reads_first(truth)

    def reads_first(self, truth: Truth) -> bool:
        """Whether it is read as soon as it has begun."""
        leaves = not truth.waiting and truth.session.closing is not None
        return truth.due <= truth.position or leaves

    def next_queued(self) -> int:
        self.queued += 1
        return self.queued

    @precondition(lambda self: self.snapshots)
    @rule(
        target=sessions,
        outbox=st.integers(0, 2),
        selection=st.sampled_from(SELECTIONS),
        which=st.integers(0, 1000),
        cadence=st.none() | cadences,
    )
    def resume(
        self, outbox: int, selection: FakeSelection, which: int, cadence: Cadence | None
    ) -> Truth:
        source, snapshot = self.snapshots[which % len(self.snapshots)]
        state = source.state_at(snapshot.position)
        return self.opened(outbox, selection, snapshot, cadence, state, snapshot.position)

    def opened(
        self,
        outbox: int,
        selection: FakeSelection,
        given: InitialState | None,
        cadence: Cadence | None,
        initial: int | None,
        first: int,
        *,
        awaited: bool = False,
    ) -> Truth:
        number = len(self.truths)
        session = self.scheduler.add(
            OpenRequest(
                number=number,
                outbox=self.outboxes[outbox],
                selection=selection,
                initial_state=given,
                cadence=cadence,
                awaited=awaited,
            ),
            id=str(number),
            now=self.clock,
        )
        self.session_indexes[outbox].add(session)
        truth = Truth(session, initial, cadence or Cadence(), first, isinstance(given, Snapshot))
        self.truths[session] = truth
        truth.queued = self.next_queued()
        truth.taken_at(self.clock)
        return truth

    @rule(
        some=st.lists(
            st.tuples(sessions, st.one_of(st.integers(0, 3), st.integers(0, 60))),
            min_size=1,
            max_size=6,
        ),
        at_once=st.booleans(),
    )
    def push(self, some: list[tuple[Truth, int]], at_once: bool) -> None:
        """For sessions of one outbox, of which any may be named several times."""
        outbox = some[0][0].session.outbox
        shares = [
            (truth, count)
            for truth, count in some
            if truth.live and truth.session.closing is None and truth.session.outbox is outbox
        ]
        self.clock += 1
        new = list(range(self.next_element, self.next_element + sum(n for _, n in shares)))
        self.next_element += len(new)
        if at_once:
            shares = [(truth, count) for truth, count in shares if count]
        sessions, counts = [truth.session for truth, _ in shares], [n for _, n in shares]
        found = self.find(sessions) if at_once and sessions else None
        if found is None:
            most = self.scheduler.push(sessions, counts, ids(*new), self.clock)
        else:
            receiver, rows = found
            most = self.scheduler.push_rows(receiver, rows, np.array(counts), ids(*new), self.clock)
        for truth, count in shares:
            truth.pushed += new[:count]
            truth.times += [self.clock] * count
            del new[:count]
        assert most == max((truth.session.unanswered for truth, n in shares if n), default=0)

    def find(self, sessions: list[Session]) -> tuple[Receiver, Rows] | None:
        """Where they are, if they can be pushed to at once."""
        found = self.session_indexes[self.outboxes.index(sessions[0].outbox)].find(
            np.array([session.number for session in sessions])
        )
        alike = len({session.receiver for session in sessions}) == 1
        assert (found is not None) is alike
        if found is not None:
            assert found[0] is sessions[0].receiver
            assert numbers(found[1]) == [session.slot.index for session in sessions]
        return found

    @rule(truth=sessions)
    def ask_for_snapshot(self, truth: Truth) -> None:
        if truth.live:
            self.scheduler.snapshot(truth.session)
            position = truth.first + len(truth.pushed)
            truth.due = min(truth.due, position)
            if position not in truth.asked:
                truth.asked.append(position)
            truth.read |= self.reads_at_once(truth)

    @rule(truth=sessions, ending=st.sampled_from([FINISHED, INVALID, SHUTDOWN, MOVED]))
    def close(self, truth: Truth, ending: Ending) -> None:
        if not truth.live:
            return
        ended = self.scheduler.close(truth.session, ending)
        closing = truth.session.closing
        assert closing is not None
        # A session that begins or is read has nothing to answer.
        busy = truth.waiting or self.answers(truth) or truth.awaited
        assert ended is (not busy and not truth.moves)
        if ended:
            self.ended(truth.session)
        elif truth.moves:
            truth.read |= self.reads_at_once(truth)

    @rule(truth=sessions, ending=st.sampled_from([SHUTDOWN, MOVED]))
    def cut(self, truth: Truth, ending: Ending) -> None:
        if not truth.live:
            return
        before = truth.session.closing
        ended = self.scheduler.cut(truth.session, ending)
        closing = truth.session.closing
        assert closing is (ending if before in (None, FINISHED) else before)
        truth.hastened = truth.kept
        truth.pushed = truth.pushed[: truth.taken]
        truth.times = truth.times[: truth.taken]
        busy = self.in_flight(truth) and not self.begins(truth)
        begun = (truth.initial is None or truth.begun) and not truth.awaited
        moves = truth.hands_over and begun
        assert ended is (not busy and not moves)
        if ended:
            truth.cut_short = True
            self.ended(truth.session)
        elif not busy:
            truth.read = True

    @rule(truth=sessions, ending=st.sampled_from([CANCELLED, SHUTDOWN, INVALID]))
    def abort(self, truth: Truth, ending: Ending) -> None:
        if truth.live:
            truth.cut_short = True
            self.scheduler.abort(truth.session, ending)
            self.ended(truth.session)

    @rule(outbox=st.integers(0, 2))
    def collect(self, outbox: int) -> None:
        mail = self.outboxes[outbox].take()
        self.scheduler.release(self.outboxes[outbox])
        for delivery in mail.deliveries:
            self.receive(delivery)

    # What the engine does.

    @precondition(lambda self: len(self.steps) < 2)
    @rule(run_at_once=st.booleans())
    def start_step(self, run_at_once: bool) -> None:
        able = [truth for truth in self.truths.values() if self.can_go(truth)]
        due = [truth for truth in self.truths.values() if self.can_begin(truth)]
        due.sort(key=lambda truth: truth.queued)
        read = [truth for truth in self.truths.values() if self.can_be_read(truth)]
        work = self.scheduler.schedule()
        assert (work is not None) is bool(able or due or read)
        assert isinstance(work, CaptureJob) is bool(read)
        if work is None:
            return
        sessions = self.scheduler.lifecycle.of(slots_of(work))
        if isinstance(work, CaptureJob):
            assert len(work) == min(len(read), self.limits.max_batch_size)
            assert work.slots == [session.slot.index for session in sessions]
            assert all(self.truths[session] in read for session in sessions)
        elif isinstance(work, InitJob | RestoreJob):
            # In the order of their opens, and as many as may and begin alike.
            restored = [truth.restored for truth in due]
            alike = restored.index(not restored[0]) if len(set(restored)) > 1 else len(due)
            most = self.limits.max_batch_size if restored[0] else self.limits.max_init_batch_size
            assert isinstance(work, RestoreJob) is restored[0]
            assert sessions == [truth.session for truth in due[: min(alike, most)]]
            assert work.slots == [session.slot.index for session in sessions]
        else:
            assert isinstance(work, Batch)
            assert all(self.truths[session] in able for session in sessions)
            self.check_limits(work)
            self.check_contents(work)
        self.steps.append(Step(work, sessions, self.run(work) if run_at_once else None))

    def run(self, work: Job) -> Outputs | Tensors:
        match work:
            case Batch():
                return self.runner.run(work)
            case CaptureJob():
                return self.runner.capture(work)
            case InitJob():
                self.runner.initialize(work)
            case RestoreJob():
                self.runner.restore(work)
        return {}

    @precondition(lambda self: self.steps)
    @rule()
    def complete_step(self) -> None:
        step = self.steps.pop(0)
        batch = step.work
        outputs = self.run(batch) if step.outputs is None else step.outputs
        if isinstance(batch, CaptureJob):
            assert isinstance(outputs, tuple)
            self.complete_reading(batch, outputs)
            return
        assert not isinstance(outputs, tuple)
        if not isinstance(batch, Batch):
            for session in step.sessions:
                truth = self.truths[session]
                truth.begun = True
                truth.read = self.reads_first(truth)
            self.scheduler.lifecycle.initialized(batch.slots)
            return
        # A later step that ran early would have used slots of this one, were any shared.
        for outbox, delivery in deliveries(batch, outputs):
            assert all(self.numbered(n).outbox is outbox for n in delivery.numbers)
            outbox.deliver(delivery)
        self.clock += 1
        for session in step.sessions:
            truth = self.truths[session]
            late = truth.due_time <= self.clock and truth.position >= truth.due_from
            truth.read = truth.due <= truth.position or late
            if session.closing is not None and not truth.waiting:
                truth.read = truth.moves
        for session in complete(self.scheduler, batch, self.clock):
            self.ended(session)

    def complete_reading(self, reading: CaptureJob, tensors: Tensors | None) -> None:
        live = [
            self.truths[s]
            for s in self.scheduler.lifecycle.of(reading.slots)
            if self.truths[s].live
        ]
        snapshots, ended = self.scheduler.lifecycle.captured(reading.slots, tensors, self.clock)
        for truth in live:
            truth.read = False
            truth.taken_at(self.clock)
        assert [s for s, _ in snapshots] == [t.session for t in live if tensors is not None]
        for session, snapshot in snapshots:
            truth = self.truths[session]
            assert snapshot.position == truth.position
            state = truth.state_at(snapshot.position)
            found = None if snapshot.tensors is None else int(snapshot.tensors[0])
            assert found == state
            truth.snapshots.append(snapshot)
            self.snapshots.append((truth, snapshot))
        closing = [t.session for t in live if t.session.closing is not None and not t.waiting]
        assert ended == closing
        for session in ended:
            self.ended(session)

    @precondition(lambda self: self.steps)
    @rule()
    def fail_step(self) -> None:
        step = self.steps.pop(0)
        if isinstance(step.work, CaptureJob):
            for session in step.sessions:
                self.truths[session].cut_short = True
            self.complete_reading(step.work, None)
            return
        live = [session for session in step.sessions if self.truths[session].live]
        failed = self.scheduler.lifecycle.fail(slots_of(step.work), FAILED)
        assert failed == live
        for session in failed:
            self.truths[session].cut_short = True
            self.ended(session)
            assert session.ended is FAILED

    # What must hold.

    @invariant()
    def counters_tell_the_truth(self) -> None:
        for truth in self.truths.values():
            session = truth.session
            assert session.pending == truth.waiting
            # Contexts are kept for sessions that have yet to begin, and for no others.
            assert (truth.live and session.phase is Phase.INIT_DUE) is self.can_begin(truth)
        for outbox in self.outboxes:
            assert outbox.contexts_nbytes == 8 * sum(
                truth.session.outbox is outbox
                for truth in self.truths.values()
                if self.can_begin(truth) or self.begins(truth)
            )
            assert outbox.pending == sum(
                truth.waiting for truth in self.truths.values() if truth.session.outbox is outbox
            )
        assert self.scheduler.pending == sum(truth.waiting for truth in self.truths.values())
        assert self.scheduler.sessions == {t.session for t in self.truths.values() if t.live}

    @invariant()
    def slots_are_owned_once(self) -> None:
        holders = [t.session for t in self.truths.values() if t.live or self.in_flight(t)]
        assert len({session.slot.index for session in holders}) == len(holders)
        assert all(self.scheduler.lifecycle.pool.owns(session.slot) for session in holders)
        assert self.scheduler.slots == len(holders)

    @invariant()
    def sessions_are_in_one_step_at_most(self) -> None:
        sessions = [session for step in self.steps for session in step.sessions]
        assert len(set(sessions)) == len(sessions)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for truth in self.truths.values():
            self.close(truth, FINISHED)
            self.find_what_it_begins_from(truth, None, None)
        while self.scheduler.sessions or self.steps:
            for outbox in range(len(self.outboxes)):
                self.collect(outbox)
            if not self.steps:
                self.start_step(run_at_once=True)
            self.complete_step()
            self.counters_tell_the_truth()
        for outbox in range(len(self.outboxes)):
            self.collect(outbox)
        assert self.scheduler.slots == 0
        assert self.scheduler.pending == 0
        assert self.scheduler.schedule() is None
        for truth in self.truths.values():
            assert truth.endings == [truth.session.ended]
            if not truth.cut_short:
                assert truth.session.ended is truth.session.closing
                assert truth.received == len(truth.pushed)
                if truth.hands_over:
                    assert truth.snapshots[-1].position == truth.session.position
            assert truth.first + truth.received == truth.session.position
        assert [outbox.contexts_nbytes for outbox in self.outboxes] == [0, 0, 0]

    # How it is told.

    def in_flight(self, truth: Truth) -> bool:
        return any(truth.session in step.sessions for step in self.steps)

    def begins(self, truth: Truth) -> bool:
        return self.in_flight(truth) and not truth.begun and truth.initial is not None

    def answers(self, truth: Truth) -> bool:
        return any(
            truth.session in step.sessions for step in self.steps if isinstance(step.work, Batch)
        )

    def reads_at_once(self, truth: Truth) -> bool:
        begun = (truth.initial is None or truth.begun) and not truth.awaited
        return begun and not truth.waiting and not self.answers(truth)

    def can_be_read(self, truth: Truth) -> bool:
        if truth.session.outbox.full and not truth.hastened:
            return False
        return truth.live and truth.read and not self.in_flight(truth)

    def can_begin(self, truth: Truth) -> bool:
        return (
            truth.live
            and truth.initial is not None
            and not truth.begun
            and not self.in_flight(truth)
        )

    def can_go(self, truth: Truth) -> bool:
        if truth.awaited or (truth.initial is not None and not truth.begun):
            return False
        if truth.read:
            return False
        return truth.waiting > 0 and not self.in_flight(truth) and not truth.session.outbox.full

    def ended(self, session: Session) -> None:
        assert session.ended is not None
        self.truths[session].endings.append(session.ended)

    def check_limits(self, batch: Batch) -> None:
        limits, rows = self.limits, len(batch)
        assert 1 <= rows <= limits.max_batch_size
        assert min(batch.counts) >= 1
        assert batch.chunk == max(batch.counts) <= limits.max_chunk
        # The longest chunk is itself within the budget, so this holds for a single row, too.
        assert rows * batch.chunk <= limits.max_step_elements
        if limits.chunking is Chunking.SINGLE:
            assert batch.chunk == 1
        if limits.chunking is Chunking.EQUAL:
            assert len(set(batch.counts)) == 1
        assert 2 * sum(batch.counts) >= rows * batch.chunk, "more than half of the step is padding"

    def check_contents(self, batch: Batch) -> None:
        flat = numbers(batch.elements)
        expected_elements, expected_times, expected_fresh = [], [], []
        outputs: set[str] = set()
        for row, (session, count) in enumerate(
            zip(self.scheduler.lifecycle.of(slots_of(batch)), numbers(batch.counts), strict=True)
        ):
            truth = self.truths[session]
            if truth.taken == 0 and truth.initial is None:
                expected_fresh.append(row)
            part = slice(truth.taken, truth.taken + count)
            expected_elements += truth.pushed[part]
            expected_times += truth.times[part]
            outputs |= session.selection.names
            assert session.slot.index == batch.slots[row]
            assert session.in_flight == count
            truth.taken += count
        assert flat == expected_elements
        assert batch.times.tolist() == expected_times
        assert batch.fresh == expected_fresh
        assert batch.outputs == outputs

    def receive(self, delivery: Delivery) -> None:
        names = delivery.selection.names
        assert delivery.outputs.keys() == names
        assert len(delivery.times) == sum(delivery.counts)
        start = 0
        for session, first, count in self.rows(delivery):
            truth = self.truths[session]
            assert session.selection is delivery.selection
            assert first == truth.first + truth.received
            first -= truth.first
            times = delivery.times[start : start + count].tolist()
            assert times == truth.times[first : first + count]
            initial = INITIAL if truth.initial is None else truth.initial
            expected = predicted(truth.pushed, initial)[first : first + count]
            for name in names:
                sign = -1 if name == "negated" else 1
                found = numbers(delivery.outputs[name][start : start + count])
                assert found == [sign * answer for answer in expected]
            truth.received += count
            start += count
        assert all(len(array) == start for array in delivery.outputs.values())

    def rows(self, delivery: Delivery) -> Iterator[tuple[Session, int, int]]:
        sessions = map(self.numbered, delivery.numbers)
        return zip(sessions, delivery.first_positions, delivery.counts, strict=True)

    def numbered(self, number: int) -> Session:
        return list(self.truths)[number]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=200, stateful_step_count=40)
