"""Ratios to what the machine can do, measured side by side, stay above half of what is aimed at.

Loosely, and never in seconds, as others use the machine too: a step for each session, or a session
at a time, falls far below. `python -m benchmarks.performance` measures them well.
"""

from collections.abc import Callable

import pytest

from benchmarks.models import MIDDLE, SMALL
from benchmarks.performance.bench import Bench
from benchmarks.performance.cases import ALONE, TARGETS, Case
from benchmarks.performance.run import Figures, Run, load, share_of_limit
from benchmarks.performance.targets import targets

_ROUNDS, _SECONDS = 3, 0.4


def aimed(case: Case) -> Case:
    """The same with its target."""
    return next(each for each in TARGETS if each.name == case.name)


BATCHED = [
    aimed(Case(size=SMALL, sessions=256)),
    aimed(Case(size=SMALL, sessions=64)),
    aimed(Case(size=SMALL, sessions=256, window=8)),
    aimed(Case(size=MIDDLE, sessions=64)),
    aimed(Case(size=MIDDLE, sessions=256, window=8)),
]


@pytest.fixture(scope="module")
def run() -> Run:
    found = Run(facts={}, cases=[ALONE, *BATCHED])
    with Bench(_SECONDS, found.cases, ["beside", "map", "predict"], elements=20_000) as bench:
        for _ in range(_ROUNDS):
            bench.round(found)
    return found


def middle(run: Run, case: Case, figure: Callable[[Figures], float | None]) -> float:
    found = run.middle(load(case, figure))
    assert found is not None
    return found


def reached(run: Run, measure: str) -> float:
    """The worst of the targets with this measure."""
    return min(target.reached for target in targets(run) if target.measure == measure)


def test_all_was_measured(run: Run) -> None:
    assert run.failures == []
    assert [len(round.loads) for round in run.rounds] == [len(run.cases)] * _ROUNDS


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_half_of_what_is_aimed_at_is_reached(case: Case, run: Run) -> None:
    # In the best round, as what disturbs one only takes from it.
    assert case.target is not None
    assert max(run.values(share_of_limit(case))) >= case.target / 2


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_a_step_takes_most_of_the_sessions_that_have_an_element(case: Case, run: Run) -> None:
    assert middle(run, case, lambda figures: figures.rows_per_step) >= 24


def test_many_sessions_are_answered_many_times_as_fast_as_one(run: Run) -> None:
    alone = middle(run, ALONE, lambda figures: figures.per_second)
    for sessions, times in ((64, 8), (256, 16)):
        case = aimed(Case(size=SMALL, sessions=sessions))
        assert middle(run, case, lambda figures: figures.per_second) >= times * alone


def test_interactive_sessions_are_not_held_up_by_a_bulk_one(run: Run) -> None:
    # Three processes share what may be two cores, so that the tail is the machine's as well. A
    # server that worked off what the bulk session has pushed would be beyond by far.
    assert reached(run, "p99, of that alone") >= 0.25


def test_a_client_takes_less_than_twice_the_server_s_cpu(run: Run) -> None:
    assert reached(run, "client's CPU an element, of the server's") >= 0.5


def test_a_load_that_fails_is_told_and_the_others_are_measured() -> None:
    unmeasured = Case(size=SMALL, sessions=8, share=0.5)
    found = Run(facts={}, cases=[unmeasured, ALONE])
    with Bench(0.2, found.cases) as bench:
        bench.round(found)
    (failure,) = found.failures
    assert "the capacity is unknown" in failure and unmeasured.name in failure
    assert list(found.rounds[0].loads) == [ALONE.name]
