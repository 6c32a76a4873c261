"""Drawing one of several alternatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import elman
from elman._core.session.sampler import Sampler
from elman._wire.prediction import softmax

P = np.array([0.1, 0.2, 0.4, 0.3])


def frequencies(sampler: Sampler, probabilities: np.ndarray, draws: int = 20_000) -> np.ndarray:
    drawn = [sampler.draw(probabilities) for _ in range(draws)]
    return np.bincount(drawn, minlength=len(probabilities)) / draws


def test_temperature_0_takes_the_first_of_the_largest() -> None:
    assert Sampler(0, None, None).draw(np.array([1, 5, 5])) == 1


def test_it_draws_as_the_probabilities_say() -> None:
    assert frequencies(Sampler(1, None, 0), P) == pytest.approx(P, abs=0.02)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_that_of_a_softmax(temperature: float) -> None:
    logits = np.log(P)
    expected = softmax(logits / temperature)
    assert frequencies(Sampler(temperature, None, 0), P) == pytest.approx(expected, abs=0.02)


def test_top_k_draws_among_the_largest() -> None:
    expected = [0, 0, 4 / 7, 3 / 7]
    assert frequencies(Sampler(1, 2, 0), P) == pytest.approx(expected, abs=0.02)


def test_equal_seeds_draw_equally() -> None:
    first, second, other = (Sampler(1, None, seed) for seed in (7, 7, 8))
    draws = [[sampler.draw(P) for _ in range(50)] for sampler in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


@given(
    st.lists(st.floats(0, 1), min_size=1).filter(any),
    st.floats(0, 5),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_it_never_draws_the_impossible(
    probabilities: list[float], temperature: float, top_k: int, seed: int
) -> None:
    drawn = Sampler(temperature, top_k, seed).draw(np.array(probabilities))
    assert probabilities[drawn] > 0
    assert sum(p > probabilities[drawn] for p in probabilities) < top_k


@pytest.mark.parametrize(("temperature", "top_k"), [(1, None), (0, None), (1, 1)])
@pytest.mark.parametrize(
    "probabilities", [[0.0, 0.0], [np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0], [-np.inf, -1.0]]
)
def test_what_is_no_distribution_is_an_error(
    probabilities: list[float], temperature: float, top_k: int | None
) -> None:
    with pytest.raises(elman.ServerError, match="above 0"):
        Sampler(temperature, top_k, 0).draw(np.array(probabilities))
