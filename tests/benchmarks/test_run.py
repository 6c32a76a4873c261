"""A run is what was measured, whatever of it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.performance.cases import ALONE
from benchmarks.performance.run import Round, Run, load, share_of_limit, times_limit_cpu
from tests.benchmarks.runs import MANY, OPEN, SPREAD, figures, round, run


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = run(round(), round(2.0), Round())
    written.failures.append("round 2, start: it rained")
    written.write(tmp_path / "build" / "run.json")
    assert Run.read(tmp_path / "build" / "run.json") == written


def test_what_is_no_run_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"facts": {}}')
    with pytest.raises(ValueError, match="cases"):
        Run.read(tmp_path / "run.json")


def test_a_ratio_is_that_of_its_own_round() -> None:
    """A round on a slow machine and one on a fast one agree about it."""
    both = run(round(), round(3.0))
    assert both.values(share_of_limit(MANY)) == [0.25, 0.25]
    assert both.values(share_of_limit(SPREAD)) == pytest.approx([0.95, 0.95])
    assert both.values(times_limit_cpu(MANY)) == pytest.approx([1.6, 4.8])


def test_a_limit_that_was_measured_around_a_load_is_the_one_that_counts() -> None:
    found = round()
    found.loads[MANY.name] = replace(found.loads[MANY.name], limit=200_000.0)
    assert run(found).values(share_of_limit(MANY)) == [0.5]


def test_rounds_that_lack_a_figure_are_left_out() -> None:
    without = round()
    del without.loads[MANY.name]
    unlimited = round()
    unlimited.limits.clear()
    found = run(round(), without, unlimited)
    assert found.values(share_of_limit(MANY)) == [0.25]
    assert found.values(load(MANY, lambda figures: figures.per_second)) == [100_000, 100_000]
    assert run(Round()).middle(share_of_limit(MANY)) is None


def test_the_middle_is_the_median() -> None:
    rounds = [Round(loads={ALONE.name: figures(rate)}) for rate in (1.0, 100.0, 2.0)]
    assert run(*rounds).middle(load(ALONE, lambda figures: figures.per_second)) == 2.0


def test_an_open_loop_offers_a_share_of_its_closed_one() -> None:
    assert OPEN.closed.name == MANY.name
    offered = OPEN.load(1.0, capacity=3000)
    assert (offered.rate, offered.open_loop, offered.sessions) == (1500, True, 64)
    assert not MANY.load(1.0).open_loop
