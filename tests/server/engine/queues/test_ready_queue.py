"""Who stands in line, and where."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.queues.ready_queue import ReadyQueue
from elman_server.engine.sessions.table import SessionTable
from tests.server.fakes import FakeSelection, numbers, session_in

LONGEST = 8


def lines(sessions: int) -> tuple[SessionTable, ReadyQueue]:
    table = SessionTable()
    box, selection = Outbox(limit=1, notify=lambda: None), FakeSelection()
    for row in range(sessions):
        session_in(table, box, selection, row)
    return table, ReadyQueue(table, LONGEST)


def line_up(found: ReadyQueue, rows: Sequence[int], waiting: Sequence[int]) -> None:
    found.append(np.array(rows), np.array(waiting))


def test_sessions_stand_in_the_line_of_their_length() -> None:
    _, found = lines(8)
    line_up(found, range(8), [1, 2, 3, 4, 7, 8, 9, 1000])
    assert [found.of(line) for line in range(len(found))] == [1, 2, 2, 3]
    assert (found.sessions, found.elements) == (8, 1 + 2 * 2 + 2 * 4 + 3 * 8)
    assert numbers(found.front(2, most=5)) == [3, 4, 5, 6, 7]


def test_the_lines_behind_the_first_fill_up_what_it_leaves() -> None:
    _, found = lines(4)
    line_up(found, [0, 1, 2, 3], [1, 8, 1, 2])
    assert numbers(found.front(3, most=3)) == [1, 0, 2]
    found.leave(2)
    assert numbers(found.front(0, most=3)) == [2, 3]


def test_who_found_another_place_is_passed_over() -> None:
    table, found = lines(4)
    line_up(found, [0, 1, 2, 3], [1, 1, 1, 1])
    table.queue_number[[0, 2]] = 0
    found.append_one(2, 1)
    assert numbers(found.front(0, most=2)) == [1, 3]
    found.leave(1)
    assert numbers(found.front(0, most=9)) == [3, 2]


def test_one_is_taken_alone() -> None:
    table, found = lines(3)
    line_up(found, [0, 1, 2], [1, 1, 1])
    table.queue_number[0] = 0
    assert [found.take_one(0) for _ in range(3)] == [1, 2, None]
    assert found.sessions == 0


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=40))
def test_first_come_is_first_served_through_any_number_of_sessions(
    turns: list[tuple[int, int]],
) -> None:
    """So many join, and then so many leave."""
    _, found = lines(sum(joining for joining, _ in turns))
    joined, expected = 0, list[int]()
    for joining, leaving in turns:
        rows = list(range(joined, joined + joining))
        joined += joining
        line_up(found, rows, [1] * joining)
        expected += rows
        assert numbers(found.front(0, most=leaving)) == expected[:leaving]
        found.leave(leaving)
        del expected[:leaving]
        assert found.sessions == len(expected)
