"""Verdicts follow from figures."""

import pytest

from benchmarks.performance.cases import ALONE
from benchmarks.performance.run import Round
from benchmarks.performance.targets import Target, targets
from tests.benchmarks.runs import MANY, SPREAD, round, run


def target(bound: float, *values: float, at_least: bool) -> Target:
    return Target(
        load="a", measure="b", bound=bound, at_least=at_least, values=list(values), form="{:.2f}"
    )


@pytest.mark.parametrize(
    ("found", "met", "reached"),
    [
        (target(0.9, 0.9, at_least=True), True, 1.0),
        (target(0.8, 0.1, 0.4, 5.0, at_least=True), False, 0.5),
        (target(2.0, 2.0, at_least=False), True, 1.0),
        (target(2.0, 1.0, at_least=False), True, 2.0),
        (target(2.0, 1.0, 4.0, 9.0, at_least=False), False, 0.5),
        (target(2.0, 0.0, at_least=False), True, float("inf")),
    ],
)
def test_the_median_decides(found: Target, met: bool, reached: float) -> None:
    assert found.met is met
    assert found.reached == pytest.approx(reached)


def test_what_a_run_saw_of_each() -> None:
    seen = {(each.load, each.measure): each.seen for each in targets(run(round(), round(2.0)))}
    assert seen == pytest.approx(
        {
            (MANY.name, "of the in-process limit"): 0.25,
            (SPREAD.name, "of the echo's messages/s"): 0.95,
            (SPREAD.name, "elements/s; Triton's is aimed at"): 28_500,
            (ALONE.name, "p50, of echo's + a step"): 1.5,
            ("100 interactive sessions beside a bulk one", "p99, of that alone"): 3.0,
            ("10,000 sessions open", "resident bytes each, beside state"): 1024,
            ("10,000 sessions open", "seconds to open"): 1.0,
            ("whole sequences by map", "client's CPU an element, of the server's"): 0.5,
            ("whole sequences by predict", "client's CPU an element, of the server's"): 0.5,
            ("start with the bundled models", "seconds to SERVING"): 0.9,
            ("`import elman`, and what `elman.connect` needs", "seconds"): 0.05,
        }
    )


def test_a_core_each_is_compared_with_a_core_each() -> None:
    bounds = [
        [each.bound for each in targets(run(round(), pinned=pinned)) if "Triton" in each.measure]
        for pinned in (False, True)
    ]
    assert bounds == [[15_000], [22_500]]


def test_what_was_not_measured_has_no_verdict() -> None:
    assert targets(run(Round())) == targets(run()) == []
