"""Weights as int8: a scale for each column, and no sum that can saturate on a CPU.

Works on arrays only, not on graphs.
"""

from dataclasses import dataclass

import numpy as np

_LARGEST = 127

_PAIR = 127
"""The largest sum of two vertically adjacent weights, before rounding.

x86 CPUs without VNNI multiply unsigned by signed bytes with VPMADDUBSW. The instruction adds two
neighbouring products in 16 bits and saturates: 255 * 128 = 32,640 still fits. Rounding adds at most
1.
"""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix in int8: `values * scales` is close to the original."""

    values: np.ndarray
    """int8 `[rows, columns]`."""
    scales: np.ndarray
    """float32 `[columns]`."""


def quantize_columns(matrix: np.ndarray) -> Quantized:
    """Rounds `[rows, columns]` to int8, to nearest, with the smallest safe scales."""
    rows, columns = matrix.shape
    padded = np.zeros((rows + rows % 2, columns), np.float64)
    padded[:rows] = matrix
    pairs = padded.reshape(-1, 2, columns)
    # Products of unlike signs cancel out; products of like signs add up.
    sums = np.maximum(np.maximum(pairs, 0).sum(1), np.maximum(-pairs, 0).sum(1))
    scales = np.maximum(
        np.abs(padded).max(0, initial=0) / _LARGEST, sums.max(0, initial=0) / _PAIR
    ).astype(np.float32)
    # A division by the rounded scale must not exceed the limit again.
    scales = np.nextafter(scales, np.float32(np.inf), dtype=np.float32)
    scales[~padded.any(0)] = 1
    return Quantized(np.rint(matrix / scales).astype(np.int8), scales)
