"""How long a call may wait, by a clock that the tests set."""

from collections.abc import Callable
from math import inf

import pytest

import elman
from elman._core.session import deadline as _deadline
from elman._core.session.deadline import Deadline

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    def show(seconds: float) -> None:
        monkeypatch.setattr(_deadline, "monotonic", lambda: seconds)

    return show


def test_it_starts_when_something_is_owed(clock: Clock) -> None:
    deadline = Deadline(10)
    clock(100)
    assert deadline.at(owed=0) == inf
    clock(200)
    assert deadline.at(owed=1) == 210
    clock(209)
    assert deadline.remaining(owed=1) == 1
    clock(210)
    with pytest.raises(elman.DeadlineExceeded, match="within 10 s"):
        deadline.at(owed=1)


def test_it_starts_again_when_the_server_has_answered(clock: Clock) -> None:
    deadline = Deadline(10)
    clock(0)
    deadline.at(owed=1)
    clock(11)
    assert deadline.at(owed=2) == 21


def test_it_counts_for_all_of_a_call_that_does_not_tell_of_answers(clock: Clock) -> None:
    deadline = Deadline(10)
    clock(0)
    assert deadline.at() == deadline.at(owed=True) == 10
    clock(10)
    with pytest.raises(elman.DeadlineExceeded):
        deadline.at(owed=True)


def test_without_a_timeout_it_never_comes(clock: Clock) -> None:
    clock(0)
    assert Deadline(inf).remaining(owed=1) is None
