"""What sessions queue comes out as it went in, wherever it lay meanwhile."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elman_server.engine.arrays import Elements, Times
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.queues import element_queues
from elman_server.engine.queues.element_queues import Queues, gathered
from elman_server.engine.sessions.table import SessionTable
from tests.server.fakes import FakeSelection, ids, numbers, session_in

ROWS = 5
Waiting = dict[int, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they are moved all the time."""
    monkeypatch.setattr(element_queues, "_FIRST_ENTRIES", (8, 8))


def table() -> SessionTable:
    made = SessionTable()
    box, selection = Outbox(limit=1, notify=lambda: None), FakeSelection()
    for row in range(ROWS):
        session_in(made, box, selection, row)
    return made


class Queueing(RuleBasedStateMachine):
    """Beside plain lists."""

    @initialize()
    def begin(self) -> None:
        self.table = table()
        self.queues = Queues(self.table)
        self.waiting: Waiting = defaultdict(list)
        self.clock = 0.0
        self.next_element = 0

    def new(self, row: int, count: int) -> list[int]:
        elements = list(range(self.next_element, self.next_element + count))
        self.next_element += count
        self.waiting[row] += [(element, self.clock) for element in elements]
        return elements

    @rule(row=st.integers(0, ROWS - 1), count=st.integers(1, 20))
    def append(self, row: int, count: int) -> None:
        self.clock += 1
        self.queues.append(row, ids(*self.new(row, count)), self.clock)

    @rule(
        shares=st.lists(
            st.tuples(st.integers(0, ROWS - 1), st.sampled_from([1, 1, 2, 7])), min_size=1
        )
    )
    def extend(self, shares: list[tuple[int, int]]) -> None:
        self.clock += 1
        elements = [element for row, count in shares for element in self.new(row, count)]
        rows, counts = (np.array(column) for column in zip(*shares, strict=True))
        rows, counts, flat = gathered(rows, counts, ids(*elements))
        waiting = self.queues.extend(rows, counts, flat, self.clock)
        assert numbers(waiting) == [len(self.waiting[row]) for row in rows.tolist()]

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data(), whole=st.booleans())
    def take(self, data: st.DataObject, whole: bool) -> None:
        able = [row for row in range(ROWS) if self.waiting[row]]
        rows = data.draw(st.lists(st.sampled_from(able), min_size=1, unique=True))
        counts = [
            len(self.waiting[row]) if whole else data.draw(st.integers(1, len(self.waiting[row])))
            for row in rows
        ]
        take = self.queues.take_all if whole else self.queues.take
        self.check(
            take(np.array(rows), np.array(counts)),
            [
                pair
                for row, count in zip(rows, counts, strict=True)
                for pair in self.out(row, count)
            ],
        )

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def take_of(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from([row for row in range(ROWS) if self.waiting[row]]))
        count = data.draw(st.integers(1, len(self.waiting[row])))
        self.check(self.queues.take_of(row, count), self.out(row, count))

    @rule(row=st.integers(0, ROWS - 1))
    def clear(self, row: int) -> None:
        self.queues.clear(row)
        self.waiting[row] = []

    @invariant()
    def all_are_counted(self) -> None:
        if hasattr(self, "queues"):
            waiting = [len(self.waiting[row]) for row in range(ROWS)]
            assert self.table.waiting[:ROWS].tolist() == waiting
            assert len(self.queues) == sum(waiting)

    def out(self, row: int, count: int) -> list[tuple[int, float]]:
        taken, self.waiting[row] = self.waiting[row][:count], self.waiting[row][count:]
        return taken

    def check(self, found: tuple[Elements, Times], expected: list[tuple[int, float]]) -> None:
        elements, times = found
        assert list(zip(elements.tolist(), times.tolist(), strict=True)) == expected
        # They are the step's own: what comes next must not show in them.
        elements.fill(-1)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=200, stateful_step_count=40)


def test_elements_keep_their_shape_and_kind() -> None:
    held = Queues(table())
    frames = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    held.append(1, frames[:1], 0.0)
    held.extend(np.array([0, 1]), np.array([2, 1]), frames[1:], 0.0)
    elements, _ = held.take(np.array([1, 0]), np.array([2, 2]))
    assert elements.dtype == np.float32
    assert elements.tolist() == frames[[0, 3, 1, 2]].tolist()


@pytest.mark.parametrize("left", [0, 1])
def test_a_peak_is_not_kept_in_memory(left: int) -> None:
    held = Queues(table())
    held.append(0, np.zeros(10_000, np.int64), 0.0)
    if left:
        held.append(1, ids(7), 0.0)
    held.take_of(0, 10_000)
    assert held._elements is not None
    assert len(held._elements) <= 8
    held.append(1, ids(8), 0.0)
    assert held.take_of(1, left + 1)[0].tolist() == [7, 8][1 - left :]


def test_large_elements_have_room_for_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(element_queues, "_FIRST_ENTRIES", (4, 1024))
    monkeypatch.setattr(element_queues, "_FIRST_NBYTES", 1000)
    held = Queues(table())
    for number in range(100):
        held.append(number % 2, np.full((1, 100), number, np.float32), 0.0)
        if number:
            elements, _ = held.take_of((number - 1) % 2, 1)
            assert elements.tolist() == [[number - 1] * 100]
    assert held._elements is not None
    assert len(held._elements) == 4


def test_what_always_has_something_waiting_stays_small() -> None:
    held = Queues(table())
    held.append(0, ids(0, 0), 0.0)
    for number in range(10_000):
        held.append(0, ids(number), 0.0)
        held.take_of(0, 1)
    assert held._elements is not None
    assert len(held._elements) <= 16
