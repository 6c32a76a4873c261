"""One tensor's rows, one row for each slot."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from elman_server.runner.bound import Array

Index = NDArray[np.integer]


class RowArray:
    """Rows of a state or of a context in the graph's layout, so that a step takes and puts rows
    without moving axes. The last row belongs to no slot and never changes."""

    def __init__(self, last: Array, *, axis: int, capacity: int) -> None:
        """`last` is the last row, `[*shape]`; `axis` is the graph's batch axis."""
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
        """Rows with room, including the last row."""
        return self._rows.shape[-1]

    def grown(self, capacity: int) -> "RowArray":
        """Returns a larger array with the same rows; `capacity` includes the last row."""
        # Unused rows are never touched, so they take no memory.
        grown = RowArray(self._last, axis=self._axis, capacity=capacity)
        old = self._rows[..., :-1]
        grown._rows[..., : old.shape[-1]] = old
        return grown

    def items(self, tensor: Array) -> Array:
        """Views a tensor of the graph as items for `take` and `put`. An item is a row or, if a row
        is not contiguous, a part of a row."""
        flat = tensor.reshape(self._before, -1).view(f"V{self._nbytes}")
        return flat[0] if self._before == 1 else flat

    def take(self, slots: Index, items: Array) -> None:
        """Copies rows to `items`. Does not check bounds: the caller must."""
        # With any other mode numpy would copy twice. "clip" reads the last row for an index out of
        # bounds.
        self._rows.take(slots, -1, items, "clip")

    def put(self, slots: Index, items: Array) -> None:
        if self._before == 1:
            self._rows[slots] = items
        else:
            self._rows[:, slots] = items

    def rows(self, slots: Index) -> Array:
        """Returns a copy of rows, `[len(slots), *shape]`."""
        taken = np.ascontiguousarray(self._rows[..., slots]).view(self.dtype)
        shape = (*self.shape[: self._axis], len(slots), *self.shape[self._axis :])
        return np.ascontiguousarray(np.moveaxis(taken.reshape(shape), self._axis, 0))

    def put_rows(self, slots: Index, rows: Array) -> None:
        """Writes rows `[len(slots), *shape]`."""
        self.put(slots, self.items(np.ascontiguousarray(np.moveaxis(rows, 0, self._axis))))
