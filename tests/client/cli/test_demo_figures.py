"""The demo reads the server's own figures, and notices when they are not what it asked for."""

from math import inf, isnan

import pytest

from elman.cli.demo.failure import DemoFailed
from elman.cli.demo.figures import Figures, Work, check, quantile

PAGE = """\
# TYPE elman_sessions_opened counter
elman_sessions_opened_total{model="a",version="1"} 3.0
elman_sessions_opened_total{model="b",version="1"} 1.0
# TYPE elman_elements counter
elman_elements_total{model="a",version="1"} 30.0
elman_elements_total{model="b",version="1"} 10.0
# TYPE elman_step_batch_size histogram
elman_step_batch_size_bucket{le="4.0",model="a"} 10.0
elman_step_batch_size_bucket{le="+Inf",model="a"} 10.0
elman_step_batch_size_count{model="a"} 10.0
elman_step_batch_size_sum{model="a"} 25.0
# TYPE elman_element_latency_seconds histogram
elman_element_latency_seconds_bucket{le="0.001",model="a"} 20.0
elman_element_latency_seconds_bucket{le="0.002",model="a"} 30.0
elman_element_latency_seconds_bucket{le="+Inf",model="a"} 30.0
elman_element_latency_seconds_bucket{le="0.001",model="b"} 0.0
elman_element_latency_seconds_bucket{le="0.002",model="b"} 10.0
elman_element_latency_seconds_bucket{le="+Inf",model="b"} 10.0
"""


def test_figures_are_summed_over_models() -> None:
    figures = Figures.read(PAGE)
    assert (figures.sessions, figures.elements, figures.steps) == (4, 40, 10)
    assert figures.mean_batch_size == 2.5
    assert figures.p50 == pytest.approx(0.001)
    assert figures.p99 == pytest.approx(0.00198)


def test_figures_that_are_not_those_of_the_work_are_refused() -> None:
    figures = Figures.read(PAGE)
    check(figures, Work(sessions=4, elements=40))
    with pytest.raises(DemoFailed, match=r"counted .* \(4.0, 40.0\); expected were \(4, 41\)"):
        check(figures, Work(sessions=4, elements=41))


def test_a_page_without_the_figures_is_refused() -> None:
    with pytest.raises(DemoFailed, match="lack 'elman_step_batch_size_count'"):
        Figures.read("# TYPE other counter\nother_total 1.0\n")


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ({1.0: 10, 2.0: 20, inf: 20}, 0.5, 1.0),
        ({1.0: 10, 2.0: 20, inf: 20}, 0.75, 1.5),
        ({1.0: 10, 2.0: 10, 4.0: 20, inf: 20}, 0.75, 3.0),
        ({1.0: 10, inf: 20}, 0.99, 1.0),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(
    buckets: dict[float, float], q: float, expected: float
) -> None:
    assert quantile(buckets, q) == pytest.approx(expected)


def test_a_quantile_of_nothing_is_no_number() -> None:
    assert isnan(quantile({1.0: 0, inf: 0}, 0.5))
    assert isnan(quantile({}, 0.5))


def test_work_adds_up() -> None:
    assert Work(sessions=1, elements=2) + Work(sessions=3, elements=4) == Work(
        sessions=4, elements=6
    )
