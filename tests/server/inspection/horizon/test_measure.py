"""A horizon is what one replaced element does to later predictions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elman_server.inspection.horizon.influence import HorizonError
from elman_server.inspection.horizon.measure import StepSize, measure
from elman_server.inspection.horizon.sample import Sample, random_sample
from elman_server.model.selection import softmax
from elman_server.runner.rows import random_contexts
from tests.server.inspection.horizon.networks import Built, delay, load
from tests.stepmodels import STYLES, Shape, caption, leaky, lstm, one_row

MANY = StepSize(rows=64, chunk=1)


def test_a_leaky_sum_forgets_by_half_with_each_element(tmp_path: Path) -> None:
    network = load(leaky(), tmp_path)
    (found,) = measure(network, random_sample(network.spec.input, lags=12), MANY)
    assert found.output == "y"
    assert found.distance == "difference over the output's standard deviation"
    assert found.relative == pytest.approx([0.5**lag for lag in range(13)], rel=1e-3)
    assert found.horizon == 7  # 0.5 ** 7 is the first under a hundredth


def test_values_are_measured_in_their_own_standard_deviations(tmp_path: Path) -> None:
    # y = sum of 0.5 ** k * x, so its variance is 1 / (1 - 0.25) of the input's, which is one.
    network = load(leaky(), tmp_path)
    sample = random_sample(network.spec.input, lags=100)
    (found,) = measure(network, sample, MANY)
    assert found.absolute == pytest.approx(0.1 * 0.75**0.5, rel=0.02)


def test_an_influence_that_comes_late_is_found_at_its_lag(tmp_path: Path) -> None:
    network = load(delay(9), tmp_path)
    (found,) = measure(network, random_sample(network.spec.input, lags=12), MANY)
    assert found.reference == 9
    assert found.relative == tuple(float(lag == 9) for lag in range(13))
    assert found.horizon == 10


def test_what_is_not_forgotten_has_no_horizon(tmp_path: Path) -> None:
    # Its own row is in the sum, so that alone it keeps everything: h + 2 x.
    network = load(leaky(mixes_rows=True), tmp_path)
    alone = StepSize(rows=1, chunk=1)
    (found,) = measure(network, random_sample(network.spec.input, lags=8, rows=4), alone)
    assert found.relative == pytest.approx([1] * 9, rel=1e-3)
    assert found.horizon is None


def test_logits_are_compared_as_distributions(tmp_path: Path) -> None:
    network = load(lstm(Shape()), tmp_path)
    sample = random_sample(network.spec.input, lags=5, rows=16)
    (found,) = measure(network, sample, StepSize(rows=64, chunk=4))
    changed = sample.elements.copy()
    changed[:, sample.warm_up] = sample.replacements
    one, two = (
        softmax(
            network.step(elements, None, network.initial_states(16), ["next"])[0]["next"][
                :, sample.warm_up :
            ]
        )
        for elements in (sample.elements, changed)
    )
    expected = (np.abs(one - two).sum(axis=-1) / 2).mean(axis=0)
    assert found.distance == "total variation"
    assert found.absolute == pytest.approx(expected[0], rel=1e-5)
    assert found.relative == pytest.approx(expected / expected[0], rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_how_large_the_steps_are_makes_no_difference(rows: int, chunk: int, tmp_path: Path) -> None:
    network = load(lstm(Shape()), tmp_path)
    sample = random_sample(network.spec.input, lags=9, rows=7)
    (whole,) = measure(network, sample, StepSize(rows=14, chunk=10))
    (found,) = measure(network, sample, StepSize(rows=rows, chunk=chunk))
    assert found.relative == pytest.approx(whole.relative, rel=1e-9)


def test_elements_are_replaced_one_by_one_and_nothing_else_changes(tmp_path: Path) -> None:
    network = load(leaky(), tmp_path)
    sample = random_sample(network.spec.input, lags=6, rows=4)
    (found,) = measure(network, replace(sample, replacements=sample.elements[:, 64]), MANY)
    assert found.absolute == 0
    assert found.relative == (0.0,) * 7
    assert found.horizon == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_told_with_its_lag(value: float, tmp_path: Path) -> None:
    network = load(leaky(), tmp_path)
    sample = random_sample(network.spec.input, lags=6, rows=4)
    sample.elements[2, sample.warm_up + 3] = value
    with pytest.raises(HorizonError) as error:
        measure(network, sample, MANY)
    assert str(error.value) == "output 'y' is not finite at lag 3"


@pytest.mark.parametrize(
    ("at", "most", "where"),
    [
        (3, MANY, "lag 3"),
        (3, StepSize(rows=1, chunk=2), "lag 2"),
        (-2, MANY, "2 elements before the change"),
        (-2, StepSize(rows=64, chunk=40), "24 elements before the change"),
    ],
)
def test_a_step_that_fails_is_told_with_its_lag(
    at: int, most: StepSize, where: str, tmp_path: Path
) -> None:
    network = load(lstm(Shape()), tmp_path)
    sample = random_sample(network.spec.input, lags=6, rows=4)
    sample.elements[2, sample.warm_up + at] = 99  # an id that it has no embedding for
    with pytest.raises(HorizonError) as error:
        measure(network, sample, most)
    assert str(error.value).startswith(f"the network failed in the step from {where} on: ")
    assert "out of data bounds" in str(error.value) and "\n" not in str(error.value)


def test_a_beginning_that_fails_is_told(tmp_path: Path) -> None:
    model, spec, initial = caption()
    network = load((model, spec), tmp_path, initial)
    contexts = random_contexts(spec, 3)
    contexts["style"][:] = STYLES
    with pytest.raises(HorizonError, match=r"^the network failed to begin from random contexts: "):
        measure(network, random_sample(spec.input, lags=5, rows=7), MANY, contexts)


@pytest.mark.parametrize("built", [leaky(width=3), lstm(Shape(layers=2, lengths=False))])
def test_every_output_is_measured_at_every_lag(built: Built, tmp_path: Path) -> None:
    network = load(built, tmp_path)
    found = measure(network, random_sample(network.spec.input, lags=20), MANY)
    assert [each.output for each in found] == [out.name for out in network.spec.outputs]
    assert [len(each.relative) for each in found] == [21] * len(found)


def test_rows_take_contexts_in_turn(tmp_path: Path) -> None:
    model, spec, initial = caption()
    network = load((model, spec), tmp_path, initial)
    contexts = random_contexts(spec, 3)
    sample = random_sample(spec.input, lags=5, rows=7)
    (found,) = measure(network, sample, StepSize(rows=8, chunk=4), contexts)
    changed = sample.elements.copy()
    changed[:, sample.warm_up] = sample.replacements
    distances = []
    for row in range(7):
        own = {name: value[[row % 3]] for name, value in contexts.items()}
        one, two = (
            softmax(
                network.step(elements[[row]], None, network.begin(own), ["next"], [own["gain"]])[0][
                    "next"
                ][0, sample.warm_up :]
            )
            for elements in (sample.elements, changed)
        )
        distances.append(np.abs(one - two).sum(axis=-1) / 2)
    expected = np.mean(distances, axis=0)
    assert found.absolute == pytest.approx(expected[0], rel=1e-5)
    assert found.relative == pytest.approx(expected / expected[0], rel=1e-5)


def test_a_graph_of_one_row_is_run_row_by_row(tmp_path: Path) -> None:
    network = load(one_row(leaky()), tmp_path)
    sample = random_sample(network.spec.input, lags=8, rows=5)
    (found,) = measure(network, sample, StepSize(rows=1, chunk=1))
    assert found.relative == pytest.approx([0.5**lag for lag in range(9)], rel=1e-3)


def test_a_sample_without_a_warm_up_begins_with_the_first_element(tmp_path: Path) -> None:
    network = load(leaky(), tmp_path)
    sample = Sample(
        elements=np.zeros((1, 4, 1), np.float32),
        replacements=np.ones((1, 1), np.float32),
        warm_up=0,
        source="zeros",
        perturbation="a one",
    )
    (found,) = measure(network, sample, MANY)
    # What never varies has no scale to measure by.
    assert found.absolute == 0
