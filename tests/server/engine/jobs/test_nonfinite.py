"""Counting the predictions of a step that hold NaN or infinity."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elman_server.engine.jobs.nonfinite import count_nonfinite

NAN, INF = np.nan, np.inf


def count(outputs: Mapping[str, Any], *counts: int) -> int:
    arrays = {
        name: np.asarray(values, None if isinstance(values, np.ndarray) else np.float32)
        for name, values in outputs.items()
    }
    return count_nonfinite(arrays, np.array(counts))


def test_a_prediction_counts_once_however_many_of_its_numbers_are_wrong() -> None:
    assert count({"next": [[[NAN, NAN, 1]], [[1, 2, 3]]]}, 1, 1) == 1
    assert count({"next": [[[NAN, 1]]], "value": [[NAN]]}, 1) == 1


def test_minus_infinity_is_lawful() -> None:
    assert count({"next": [[[-INF, 0.5]], [[-INF, -INF]]]}, 1, 1) == 0
    assert count({"next": [[[-INF, 0.5]], [[-INF, INF]]]}, 1, 1) == 1


def test_padding_does_not_count() -> None:
    assert count({"next": [[1, NAN, NAN], [NAN, NAN, 3]]}, 1, 3) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_kind_of_float_is_looked_at(dtype: str) -> None:
    largest = np.finfo(dtype).max
    assert count({"y": np.array([[largest], [NAN], [INF]], dtype)}, 1, 1, 1) == 2


def test_integers_and_nothing_are_finite() -> None:
    assert count({"y": np.array([[2**62]])}, 1) == 0
    assert count({"y": np.zeros((2, 1, 0), np.float32)}, 1, 1) == 0
    assert count({}, 1) == 0


@given(
    arrays(np.float32, (4, 3, 5), elements=st.sampled_from([0.0, -1.0, 3e38, -INF, INF, NAN])),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
)
def test_it_counts_what_a_plain_loop_counts(array: np.ndarray, counts: list[int]) -> None:
    expected = sum(
        any(np.isnan(x) or x == INF for x in array[row, step])
        for row, length in enumerate(counts)
        for step in range(length)
    )
    assert count({"y": array}, *counts) == expected
