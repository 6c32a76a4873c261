"""Each load is measured once, and those that need another come after it."""

from collections.abc import Callable

import pytest

from benchmarks.models import SMALL
from benchmarks.performance import cases
from benchmarks.performance.cases import SESSIONS, SIZES, TARGETS, Case


@pytest.mark.parametrize("chosen", [cases.every, cases.quick])
def test_all_targets_are_among_the_loads_once(chosen: Callable[[], list[Case]]) -> None:
    found = chosen()
    names = [case.name for case in found]
    assert len(names) == len(set(names))
    assert {case for case in found if case.target is not None} == set(TARGETS)
    assert all(
        names.index(case.closed.name) < names.index(case.name)
        for case in found
        if case.share is not None
    )


def test_every_model_is_measured_with_every_number_of_sessions() -> None:
    names = {case.name for case in cases.every()}
    assert {Case(size=size, sessions=count).name for size in SIZES for count in SESSIONS} <= names


def test_an_open_loop_brings_its_closed_one() -> None:
    opened = Case(size=SMALL, sessions=8, share=0.9, burst=8.0)
    closed = Case(size=SMALL, sessions=8)
    assert cases.with_capacities([opened, opened]) == [closed, opened, opened]
    assert cases.with_capacities([closed, opened]) == [closed, opened]


def test_names_tell_loads_apart() -> None:
    assert Case(size=SMALL, sessions=1).name == "lstm-1x128: 1 session, window 1"
    opened = Case(size=SMALL, sessions=256, share=0.9, burst=8.0)
    assert opened.name == "lstm-1x128: 256 sessions, open loop at 90%, bursts of 8"
    spread = Case(size=SMALL, sessions=64, connections=64)
    assert spread.name == "lstm-1x128: 64 sessions, window 1, 64 connections"
