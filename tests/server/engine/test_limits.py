"""What of those who wait shares a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.engine.limits import Chunking, StepLimits, StepSizer


def seconds(rows: int, chunk: int) -> float:
    """As an LSTM of 128 units takes on a slow core."""
    return 20e-6 * chunk + 2.5e-6 * rows * chunk


def fit(
    waiting: list[int],
    *,
    elements: int = 512,
    chunk: int = 32,
    chunking: Chunking = Chunking.RAGGED,
) -> tuple[int, int]:
    limits = StepLimits(
        max_batch_size=256, max_step_elements=elements, max_chunk=chunk, chunking=chunking
    )
    return StepSizer(limits, seconds).fit(np.array(waiting))


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ([1] * 256, (256, 1)),
        ([5], (1, 5)),
        ([1000], (1, 32)),
        ([8] * 256, (64, 8)),
        ([1000] * 256, (64, 8)),
        ([1000] * 16, (16, 32)),
        # All of the many that have a few, instead of the few that have more.
        ([1, 2, 3] * 80, (240, 2)),
        # A long chunk does not take single elements along.
        ([1] * 3 + [1000], (4, 1)),
        ([1] + [1000] * 100, (64, 8)),
    ],
)
def test_the_step_is_the_one_that_answers_the_most(
    waiting: list[int], expected: tuple[int, int]
) -> None:
    assert fit(waiting) == expected


def test_without_lengths_those_share_a_step_who_fill_its_chunk() -> None:
    assert fit([9, 7, 8, 7, 8], chunking=Chunking.EQUAL) == (5, 4)
    assert fit([8] * 9 + [1] * 2, chunking=Chunking.EQUAL) == (9, 8)
    assert fit([1] + [8] * 9, chunking=Chunking.EQUAL) == (10, 1)


def test_without_a_time_axis_a_step_takes_one_element_of_each() -> None:
    assert fit([3, 1, 9], chunking=Chunking.SINGLE) == (3, 1)


@given(
    waiting=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    elements=st.integers(1, 300),
    chunk=st.integers(1, 40),
    chunking=st.sampled_from(Chunking),
)
def test_a_step_keeps_to_its_limits_and_is_mostly_wanted(
    waiting: list[int], elements: int, chunk: int, chunking: Chunking
) -> None:
    rows, taken = fit(waiting, elements=elements, chunk=chunk, chunking=chunking)
    assert 1 <= rows <= len(waiting)
    assert 1 <= taken <= chunk
    assert rows * taken <= elements
    wanted = sum(min(each, taken) for each in waiting[:rows])
    assert wanted >= 0.75 * rows * taken
    if chunking is not Chunking.RAGGED:
        assert wanted == rows * taken


@given(st.integers(1, 100), st.integers(1, 300), st.integers(1, 40), st.sampled_from(Chunking))
def test_one_row_fits_as_it_does_alone(
    waiting: int, elements: int, chunk: int, chunking: Chunking
) -> None:
    limits = StepLimits(
        max_batch_size=256, max_step_elements=elements, max_chunk=chunk, chunking=chunking
    )
    sizer = StepSizer(limits, seconds)
    assert sizer.fit(np.array([waiting])) == (1, sizer.fit_one(waiting))
