"""Rows are found where they were put, however the graph has the batch among its axes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from elman_server.runner.rowarray import RowArray

SHAPE = (2, 3, 4)


def rows(count: int, dtype: str, seed: int = 0) -> NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, 100, (count, *SHAPE)).astype(dtype)


def taken(array: RowArray, slots: list[int], axis: int) -> NDArray[np.generic]:
    """`[len(slots), *shape]`"""
    tensor = np.empty((*SHAPE[:axis], len(slots), *SHAPE[axis:]), array.dtype)
    array.take(np.array(slots), array.items(tensor))
    return np.moveaxis(tensor, axis, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
@pytest.mark.parametrize("axis", range(len(SHAPE) + 1))
def test_rows_come_back_as_they_were_put(axis: int, dtype: str) -> None:
    array = RowArray(rows(1, dtype)[0], axis=axis, capacity=8)
    put = rows(3, dtype, seed=1)
    array.put_rows(np.array([4, 0, 6]), put)
    assert np.array_equal(taken(array, [0, 6, 4], axis), put[[1, 2, 0]])
    # As a step puts them: out of a tensor that is laid out as the graph has it.
    array.put(np.array([6, 5]), array.items(np.ascontiguousarray(np.moveaxis(put[:2], 0, axis))))
    assert np.array_equal(taken(array, [0, 5, 6, 4], axis), put[[1, 1, 0, 0]])


@pytest.mark.parametrize("axis", range(len(SHAPE) + 1))
def test_growth_keeps_the_rows_and_the_last_row_stays_the_last(axis: int) -> None:
    last = rows(1, "float32")[0]
    array = RowArray(last, axis=axis, capacity=4)
    put = rows(3, "float32", seed=1)
    array.put_rows(np.arange(3), put)
    grown = array.grown(100)
    assert np.array_equal(taken(grown, [0, 1, 2, 99], axis), [*put, last])
    assert (grown.capacity, grown.nbytes) == (100, 25 * array.nbytes)
    # Who could not use it, as there was no memory for another, has what it had.
    assert np.array_equal(taken(array, [0, 1, 2, 3], axis), [*put, last])
