"""A row for each slot, of one tensor of the graph."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from elman_server.runner.bound import Array

Index = NDArray[np.integer]


class RowArray:
    """Rows of a state or of a context, laid out as the graph has them, so that a step's are taken
    and put back without turning axes round. Its last row is not for slots: it stays what it was
    made with."""

    def __init__(self, last: Array, *, axis: int, capacity: int) -> None:
        """`last` is the last row, `[*shape]`; `axis` is where the graph has the batch."""
        self.shape = last.shape
        self.dtype = last.dtype
        self._axis = axis
        self._before = prod(self.shape[:axis])
        self._nbytes = prod(self.shape[axis:]) * self.dtype.itemsize
        self._last = last
        shape = (capacity,) if self._before == 1 else (self._before, capacity)
        self._rows = np.empty(shape, f"V{self._nbytes}")
        self.put_rows(np.array([capacity - 1]), last[None])

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._rows.nbytes

    @property
    def capacity(self) -> int:
        """For how many rows there is room, the last one among them."""
        return self._rows.shape[-1]

    def grown(self, capacity: int) -> "RowArray":
        """The same rows with room for so many, the last one among them."""
        # Rows that are never used are never touched, so they take no memory.
        grown = RowArray(self._last, axis=self._axis, capacity=capacity)
        old = self._rows[..., :-1]
        grown._rows[..., : old.shape[-1]] = old
        return grown

    def items(self, tensor: Array) -> Array:
        """A tensor of the graph, with the same memory, as `take` and `put` have it: each row, or
        each part of one where it does not lie in one piece, is one item."""
        flat = tensor.reshape(self._before, -1).view(f"V{self._nbytes}")
        return flat[0] if self._before == 1 else flat

    def take(self, slots: Index, items: Array) -> None:
        """Copies rows, none of which is beyond the last: that is the caller's to see to."""
        # In any other mode numpy would copy twice; in this one what is beyond is the last.
        self._rows.take(slots, -1, items, "clip")

    def put(self, slots: Index, items: Array) -> None:
        if self._before == 1:
            self._rows[slots] = items
        else:
            self._rows[:, slots] = items

    def rows(self, slots: Index) -> Array:
        """`[len(slots), *shape]`, a copy."""
        taken = np.ascontiguousarray(self._rows[..., slots]).view(self.dtype)
        shape = (*self.shape[: self._axis], len(slots), *self.shape[self._axis :])
        return np.ascontiguousarray(np.moveaxis(taken.reshape(shape), self._axis, 0))

    def put_rows(self, slots: Index, rows: Array) -> None:
        """`[len(slots), *shape]`"""
        self.put(slots, self.items(np.ascontiguousarray(np.moveaxis(rows, 0, self._axis))))
