"""A delivery: predictions on the way to a caller."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Times

if TYPE_CHECKING:
    from elman_server.model.selection import EncodedValues

_HELD_NBYTES = 1024
"""Bytes of a delivery in memory without predictions, roughly."""
_SENT_NBYTES = 64
_SENT_NBYTES_OF_SESSION = 16
"""Bytes of a delivery on the wire without predictions, roughly: for each delivery, and for each
session."""

Outputs = Mapping[str, NDArray[Any]]
"""A step's outputs by name: `[rows, chunk, *shape]`."""


class Selection(Protocol):
    """A session's choice of outputs and encoding. Compared by identity."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the model's outputs to encode."""

    @property
    def element_nbytes(self) -> int:
        """Bytes of a prediction on the wire."""

    def encode(self, outputs: Outputs) -> "list[EncodedValues]":
        """Packs `n` predictions, `[n, *shape]` by name."""


# Not frozen: every message has a delivery, and a frozen dataclass costs more than all other work on
# a delivery.


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Predictions of sessions with a common outbox and selection, packed as they are sent."""

    selection: Selection
    numbers: list[int]
    """The caller's numbers for the sessions."""
    counts: list[int]
    first_positions: list[int]
    outputs: Outputs
    """Predictions by output name: `[sum(counts), *shape]`."""
    times: Times
    """Arrival time of each prediction's element."""

    @property
    def held_nbytes(self) -> int:
        """Bytes in memory."""
        outputs = sum(array.nbytes for array in self.outputs.values())
        return _HELD_NBYTES + self.times.nbytes + outputs

    @property
    def sent_nbytes(self) -> int:
        """Bytes on the wire."""
        predictions = sum(self.counts) * self.selection.element_nbytes
        return _SENT_NBYTES + len(self.numbers) * _SENT_NBYTES_OF_SESSION + predictions

    def without(self, numbers: Container[int]) -> "Delivery":
        """Returns the delivery without the sessions numbered in `numbers`."""
        chosen = [number not in numbers for number in self.numbers]
        return self if all(chosen) else self.of(chosen)

    def of(self, chosen: list[bool]) -> "Delivery":
        """Returns the delivery of the sessions with `chosen[i]` alone."""
        elements = np.repeat(chosen, self.counts)
        return Delivery(
            selection=self.selection,
            numbers=list(compress(self.numbers, chosen)),
            counts=list(compress(self.counts, chosen)),
            first_positions=list(compress(self.first_positions, chosen)),
            outputs={name: array[elements] for name, array in self.outputs.items()},
            times=self.times[elements],
        )

    def split(self, nbytes: int) -> Iterator["Delivery"]:
        """Splits the delivery into parts of at most `nbytes` on the wire, but at least one
        prediction. A session's predictions may be split too."""
        if self.sent_nbytes <= nbytes:
            yield self
            return
        element_nbytes = self.selection.element_nbytes + _SENT_NBYTES_OF_SESSION
        room = max(1, (nbytes - _SENT_NBYTES) // element_nbytes)
        total = sum(self.counts)
        for first in range(0, total, room):
            yield self._part(first, min(first + room, total))

    def _part(self, first: int, stop: int) -> "Delivery":
        """Returns predictions `first` to `stop - 1`, counted over all sessions."""
        numbers, counts, positions = [], [], []
        start = 0
        for number, count, position in zip(
            self.numbers, self.counts, self.first_positions, strict=True
        ):
            low, high = max(first, start), min(stop, start + count)
            if low < high:
                numbers.append(number)
                counts.append(high - low)
                positions.append(position + low - start)
            start += count
        return Delivery(
            selection=self.selection,
            numbers=numbers,
            counts=counts,
            first_positions=positions,
            outputs={name: array[first:stop] for name, array in self.outputs.items()},
            times=self.times[first:stop],
        )
