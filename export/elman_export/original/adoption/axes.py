"""Axes of a graph's tensor for rows, steps and element, and conversion between layouts."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from elman_export.original.adoption.port import Dims


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Axis numbers in the graph's tensor. All other axes belong to the element."""

    rank: int
    batch: int | None
    time: int | None
    units: tuple[int, ...] = ()
    """Axes of length 1, hidden from clients."""
    shape: tuple[int, ...]
    """Shape of an element, without the units."""

    @property
    def element(self) -> tuple[int, ...]:
        taken = {self.batch, self.time, *self.units}
        return tuple(axis for axis in range(self.rank) if axis not in taken)

    @property
    def order(self) -> tuple[int, ...]:
        """The graph's axes without the units, in the order rows, steps, element."""
        return tuple(a for a in (self.batch, self.time, *self.element) if a is not None)

    def sizes(self, batch: int, time: int) -> tuple[int, ...]:
        """Returns the graph's shape for a number of rows and steps."""
        by_axis = {axis: 1 for axis in self.units}
        by_axis |= dict(zip(self.element, self.shape, strict=True))
        if self.batch is not None:
            by_axis[self.batch] = batch
        if self.time is not None:
            by_axis[self.time] = time
        return tuple(by_axis[axis] for axis in range(self.rank))

    def arrange(self, x: np.ndarray) -> np.ndarray:
        """Converts `[batch, time, *shape]` to the graph's layout. An axis missing there must have
        length 1."""
        if self.time is None:
            x = np.squeeze(x, 1)
        if self.batch is None:
            x = np.squeeze(x, 0)
        kept = sorted(self.order)
        x = x.transpose([self.order.index(axis) for axis in kept])
        return np.asarray(np.expand_dims(x, self.units), order="C")

    def normal(self, y: np.ndarray) -> np.ndarray:
        """Converts a tensor of the graph to `[batch, time, *shape]`. Missing axes get length 1."""
        y = np.squeeze(y, self.units)
        kept = sorted(self.order)
        y = y.transpose([kept.index(axis) for axis in self.order])
        if self.batch is None:
            y = np.expand_dims(y, 0)
        if self.time is None:
            y = np.expand_dims(y, 1)
        return y


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementLayout:
    """A possible layout of the graph's elements."""

    axes: Axes
    batched: bool
    opened: bool
    """Whether the batch axis is declared as 1 and must be opened."""
    open_units: int
    """Number of open axes that always get length 1."""

    @property
    def cost(self) -> tuple[int, ...]:
        """Sort key. Preferred first: many rows, many steps, nothing changed."""
        kind = 2 if not self.batched else 1 if self.opened else 0
        axes = self.axes
        place = [-1 if axis is None else axis for axis in (axes.batch, axes.time)]
        lacks = [int(axes.time is None), int(axes.batch is None)]
        return (kind, *lacks, self.open_units, *place, *(-axis for axis in axes.element))


def element_layouts(dims: Dims, shape: tuple[int, ...] | None) -> list[ElementLayout]:
    """Returns every layout with the declared sizes for elements of `shape`, best first.

    Without `shape`, the element has the axes of declared size, except axes of size 1.
    """
    found = []
    axes = range(len(dims))
    for batch in (None, *(axis for axis in axes if dims[axis] in (None, 1))):
        for time in (None, *(axis for axis in axes if dims[axis] is None and axis != batch)):
            rest = [axis for axis in axes if axis not in (batch, time)]
            for units, element in _elements(dims, rest, shape):
                found += [
                    ElementLayout(
                        axes=Axes(
                            rank=len(dims), batch=batch, time=time, units=units, shape=element
                        ),
                        batched=batched,
                        opened=batched and batch is not None and dims[batch] == 1,
                        open_units=sum(dims[axis] is None for axis in units),
                    )
                    for batched in ((True, False) if batch is not None else (False,))
                ]
    return sorted(found, key=lambda each: each.cost)


def _elements(
    dims: Dims, rest: list[int], shape: tuple[int, ...] | None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yields the units among the axes in `rest`, and the element's shape on the remaining axes."""
    if shape is None:
        sizes = tuple(dims[axis] for axis in rest)
        found = tuple(size for size in sizes if size is not None and size != 1)
        if found or None not in sizes:
            yield tuple(axis for axis in rest if dims[axis] in (None, 1)), found
        return
    for element in combinations(rest, len(shape)):
        units = tuple(axis for axis in rest if axis not in element)
        fits = all(dims[axis] in (None, 1) for axis in units) and all(
            dims[axis] in (None, size) for axis, size in zip(element, shape, strict=True)
        )
        if fits:
            yield units, shape
