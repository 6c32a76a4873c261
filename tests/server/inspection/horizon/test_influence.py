"""The distance between two predictions fits their kind, and the horizon is where it stays small."""

import numpy as np
import pytest

from elman_server.inspection.horizon.influence import Influence, Tally
from elman_server.model.spec import OutputKind, OutputSpec


def tallied(kind: OutputKind, plain: np.ndarray, changed: np.ndarray) -> Influence:
    """`plain` and `changed` are `[rows, lags + 1, *shape]`."""
    shape = plain.shape[2:]
    tally = Tally(OutputSpec(name="y", kind=kind, dtype="float32", shape=shape), plain.shape[1] - 1)
    tally.add(0, plain.astype(np.float32), changed.astype(np.float32))
    return tally.influence()


def curve(*relative: float) -> Influence:
    return Influence(output="y", distance="", reference=0, absolute=1.0, relative=relative)


def test_a_distribution_moves_by_the_probability_that_changes_its_place() -> None:
    plain, changed = np.array([[[0.5, 0.3, 0.2]]]), np.array([[[0.1, 0.6, 0.3]]])
    found = tallied(OutputKind.PROBABILITIES, plain, changed)
    assert found.distance == "total variation"
    assert found.absolute == pytest.approx(0.4)


def test_logits_move_as_their_distributions_do() -> None:
    plain, changed = np.array([[[0.5, 0.3, 0.2]]]), np.array([[[0.1, 0.6, 0.3]]])
    # The same distributions, with a constant that says nothing.
    found = tallied(OutputKind.LOGITS, np.log(plain) + 40, np.log(changed) - 7)
    assert found.absolute == pytest.approx(0.4, rel=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_probabilities_of_yes_or_no_move_by_their_difference(shape: tuple[int, ...]) -> None:
    plain, changed = np.full((1, 1, *shape), 0.2), np.full((1, 1, *shape), 0.9)
    found = tallied(OutputKind.PROBABILITIES, plain, changed)
    assert found.distance == "difference of the probabilities"
    assert found.absolute == pytest.approx(0.7)


def test_units_do_not_matter_to_values() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(50, 6, 2))
    changed = plain + rng.normal(size=plain.shape)
    one = tallied(OutputKind.VALUES, plain, changed)
    # The first entry in other units, and far from zero.
    scale, shift = np.array([1000.0, 1]), np.array([-40_000.0, 0])
    other = tallied(OutputKind.VALUES, plain * scale + shift, changed * scale + shift)
    assert other.relative == pytest.approx(one.relative, rel=1e-3)
    assert other.absolute == pytest.approx(one.absolute, rel=1e-3)


def test_the_spread_is_that_of_all_predictions_added() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(3, 5, size=(40, 10)).astype(np.float32)
    tally = Tally(OutputSpec(name="y", kind=OutputKind.VALUES, dtype="float32"), 9)
    for rows in (slice(0, 7), slice(7, 40)):
        for lag in (0, 4):
            part = plain[rows, lag : lag + 4 if lag == 0 else 10]
            tally.add(lag, part, part + 1)
    assert tally.influence().absolute == pytest.approx(1 / plain.std(), rel=1e-5)


@pytest.mark.parametrize(
    ("relative", "horizon"),
    [
        ((1, 0.5, 0.02, 0.009, 0.001), 3),
        ((1, 0.5, 0.02, 0.01, 0.0099), 4),
        ((1, 0.5, 0.001, 0.3, 0.001), 4),
        ((1, 0.5, 0.02, 0.02, 0.02), None),
        ((1, 0, 0, 0, 0), 1),
    ],
)
def test_the_horizon_is_the_lag_from_which_on_influence_stays_under_a_hundredth(
    relative: tuple[float, ...], horizon: int | None
) -> None:
    assert curve(*relative).horizon == horizon


def test_the_largest_from_a_lag_on_sees_what_comes_later() -> None:
    found = curve(1, 0.1, 0.5, 0.2)
    assert [found.largest_from(lag) for lag in range(4)] == [1, 0.5, 0.5, 0.2]
