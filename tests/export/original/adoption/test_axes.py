"""Elements go into a graph's layout and out of it again, whatever it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_export.original.adoption.axes import Axes, element_layouts


@st.composite
def layouts(draw: st.DrawFn) -> Axes:
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    units = draw(st.integers(0, 2))
    batch, time = draw(st.booleans()), draw(st.booleans())
    rank = len(shape) + units + batch + time
    places = draw(st.permutations(range(rank)))
    return Axes(
        rank=rank,
        batch=places[0] if batch else None,
        time=places[batch] if time else None,
        units=tuple(sorted(places[batch + time : batch + time + units])),
        shape=shape,
    )


@given(axes=layouts(), rows=st.integers(1, 3), steps=st.integers(1, 3))
def test_what_goes_in_comes_out_again(axes: Axes, rows: int, steps: int) -> None:
    rows, steps = (rows if axes.batch is not None else 1), (steps if axes.time is not None else 1)
    x = np.arange(rows * steps * int(np.prod(axes.shape))).reshape(rows, steps, *axes.shape)
    arranged = axes.arrange(x)
    assert arranged.shape == axes.sizes(rows, steps)
    np.testing.assert_array_equal(axes.normal(arranged), x)


def best(dims: tuple[int | None, ...], shape: tuple[int, ...] | None) -> Axes:
    return element_layouts(dims, shape)[0].axes


@pytest.mark.parametrize(
    ("dims", "shape", "batch", "time", "element"),
    [
        ((None, None, 3), None, 0, 1, (3,)),
        ((None, 3), None, 0, None, (3,)),
        ((None, None), (576,), 0, None, (576,)),
        ((1, None, 3), None, 1, None, (3,)),
        ((1, 1, 257), None, 0, None, (257,)),
        ((1, 1, 257), (1, 257), 0, None, (1, 257)),
        ((None, None), (), 0, 1, ()),
        ((None, 4, 3), None, 0, None, (4, 3)),
    ],
)
def test_open_axes_are_tried_as_rows_and_steps_first(
    dims: tuple[int | None, ...],
    shape: tuple[int, ...] | None,
    batch: int,
    time: int | None,
    element: tuple[int, ...],
) -> None:
    axes = best(dims, shape)
    assert (axes.batch, axes.time, axes.shape) == (batch, time, element)


def test_an_element_that_does_not_fit_has_no_layout() -> None:
    assert element_layouts((None, 4), (3,)) == []
