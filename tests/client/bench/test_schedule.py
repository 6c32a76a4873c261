"""Open loops: how many elements come, for whom, and when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.bench.load import Load
from elman.bench.schedule import Schedule


@pytest.mark.parametrize("burst", [1.0, 8.0])
def test_elements_come_at_the_rate_that_was_asked_for(burst: float) -> None:
    load = Load(sessions=10, rate=20_000, burst=burst, seconds=9.5, warm_up=0.5)
    schedule = Schedule.of(load, range(10), seed=0)
    assert len(schedule.times) == pytest.approx(200_000, rel=0.03)
    assert (np.diff(schedule.times) >= 0).all()
    assert schedule.times[0] >= 0 and schedule.times[-1] < 10
    assert np.bincount(schedule.sessions, minlength=10).min() > 15_000
    together = len(schedule.times) / len(np.unique(schedule.times))
    assert together == pytest.approx(burst, rel=0.05)


def test_a_connection_takes_its_share_of_the_rate() -> None:
    load = Load(sessions=10, connections=5, rate=10_000, seconds=9.5, warm_up=0.5)
    schedule = Schedule.of(load, load.shares[2], seed=2)
    assert len(schedule.times) == pytest.approx(20_000, rel=0.05)
    assert set(schedule.sessions.tolist()) == {0, 1}


def test_the_same_seed_gives_the_same_times() -> None:
    load = Load(rate=1000, seconds=1)
    same = [Schedule.of(load, range(64), seed=3) for _ in range(2)]
    other = Schedule.of(load, range(64), seed=4)
    assert same[0].times.tolist() == same[1].times.tolist() != other.times.tolist()


@given(st.lists(st.integers(0, 4), max_size=50))
def test_due_times_are_found_by_session_and_position(sessions: list[int]) -> None:
    schedule = Schedule(np.linspace(0, 10, len(sessions)), np.array(sessions, np.int64))
    due = schedule.due(5)
    times, seen = schedule.times.tolist(), [0] * 5
    for number, session in enumerate(sessions):
        assert due.at(np.array([session]), np.array([seen[session]])) == [times[number]]
        seen[session] += 1
