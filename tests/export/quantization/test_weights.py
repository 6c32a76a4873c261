"""Weights are rounded to nearest, column by column, and never so that a CPU could saturate."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elman_export.quantization.weights import quantize_columns

SIZES = st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30])


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 5), size=SIZES, seed=st.integers(0, 2**32 - 1)
)
def test_no_two_neighbouring_products_leave_sixteen_bits(
    rows: int, columns: int, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_normal((rows, columns)) ** 3 * size).astype(np.float32)
    values = quantize_columns(matrix).values.astype(int)
    values = np.concatenate([values, np.zeros((rows % 2, columns), int)]).reshape(-1, 2, columns)
    # Codes are 0 to 255, so the worst sum has 255 wherever a weight has one sign.
    assert (255 * np.maximum(values, 0)).sum(1).max() <= 2**15 - 1
    assert (255 * np.minimum(values, 0)).sum(1).min() >= -(2**15)


@given(seed=st.integers(0, 2**32 - 1), size=SIZES)
def test_weights_are_off_by_half_a_step_at_most(seed: int, size: float) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((30, 4)) * size).astype(np.float32)
    found = quantize_columns(matrix)
    difference = np.abs(found.values * found.scales.astype(float) - matrix)
    assert (difference <= found.scales * 0.5001).all()
    assert (found.scales <= 2 * np.abs(matrix).max(0) / 127 * 1.001).all()


def test_a_column_of_zeros_stays_zeros() -> None:
    found = quantize_columns(np.zeros((3, 2), np.float32))
    assert not found.values.any()
    assert np.isfinite(found.scales).all()
