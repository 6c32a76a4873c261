"""Rows are handed out once and come back once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.engine.sessions.state_pool import Slot, StaleSlotError, StatePool


def test_slots_are_distinct() -> None:
    pool = StatePool()
    assert [pool.allocate().index for _ in range(3)] == [0, 1, 2]


def test_a_freed_row_is_used_again_under_a_new_generation() -> None:
    pool = StatePool()
    first = pool.allocate()
    pool.free(first)
    second = pool.allocate()
    assert (second.index, second.generation) == (first.index, first.generation + 1)
    assert pool.owns(second)
    assert not pool.owns(first)


def test_a_slot_can_not_be_freed_twice() -> None:
    pool = StatePool()
    slot = pool.allocate()
    pool.free(slot)
    with pytest.raises(StaleSlotError):
        pool.free(slot)


def test_the_last_holder_can_not_free_the_next_ones_slot() -> None:
    pool = StatePool()
    stale = pool.allocate()
    pool.free(stale)
    current = pool.allocate()
    with pytest.raises(StaleSlotError):
        pool.free(stale)
    assert pool.owns(current)
    assert pool.used == 1


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=60))
def test_as_many_rows_are_handed_out_as_were_used_at_once(actions: list[int | None]) -> None:
    pool = StatePool()
    held: list[Slot] = []
    most = 0
    rows: set[int] = set()
    for action in actions:
        if action is None or not held:
            held.append(pool.allocate())
        else:
            pool.free(held.pop(action % len(held)))
        most = max(most, len(held))
        assert pool.used == len(held) == len({slot.index for slot in held})
        assert all(pool.owns(slot) for slot in held)
        rows |= {slot.index for slot in held}
        assert rows == set(range(most))
