"""A delivery: predictions on their way to one caller."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.queues import Times

if TYPE_CHECKING:
    from elman_server.model.selection import EncodedValues

_HELD_NBYTES = 1024
"""What a delivery takes in memory beside its predictions, roughly."""
_SENT_NBYTES = 64
_SENT_NBYTES_OF_SESSION = 16
"""What it takes on the wire beside its predictions, roughly."""

Outputs = Mapping[str, NDArray[Any]]
"""A step's outputs by name: `[rows, chunk, *shape]`."""


class Selection(Protocol):
    """What a session wants of each prediction. Compared by identity."""

    @property
    def names(self) -> frozenset[str]:
        """The model's outputs that it needs."""

    @property
    def element_nbytes(self) -> int:
        """Bytes of one prediction as it is sent."""

    def encode(self, outputs: Outputs) -> "list[EncodedValues]":
        """Packs `n` predictions, `[n, *shape]` by name."""


# Not frozen: there is one for every message, and being frozen costs more than all that is done with
# it.


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Predictions of sessions with the same outbox and selection, packed as they are sent."""

    selection: Selection
    numbers: list[int]
    """The sessions' own, as their caller calls them."""
    counts: list[int]
    first_positions: list[int]
    outputs: Outputs
    """By name: `[sum(counts), *shape]`."""
    times: Times
    """When the element of each arrived."""

    @property
    def held_nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        outputs = sum(array.nbytes for array in self.outputs.values())
        return _HELD_NBYTES + self.times.nbytes + outputs

    @property
    def sent_nbytes(self) -> int:
        """Bytes that it takes as it is sent."""
        predictions = sum(self.counts) * self.selection.element_nbytes
        return _SENT_NBYTES + len(self.numbers) * _SENT_NBYTES_OF_SESSION + predictions

    def without(self, numbers: Container[int]) -> "Delivery":
        """The same but for the sessions with these numbers."""
        chosen = [number not in numbers for number in self.numbers]
        return self if all(chosen) else self.of(chosen)

    def of(self, chosen: list[bool]) -> "Delivery":
        """The same for some of the sessions alone."""
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
        """The same in parts that send at most `nbytes` each, but one prediction at least. A
        session's predictions may go out in several parts."""
        if self.sent_nbytes <= nbytes:
            yield self
            return
        element_nbytes = self.selection.element_nbytes + _SENT_NBYTES_OF_SESSION
        room = max(1, (nbytes - _SENT_NBYTES) // element_nbytes)
        total = sum(self.counts)
        for first in range(0, total, room):
            yield self._part(first, min(first + room, total))

    def _part(self, first: int, stop: int) -> "Delivery":
        """Predictions `first` to `stop - 1`, counted over all sessions."""
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
