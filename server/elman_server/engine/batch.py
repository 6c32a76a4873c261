"""A batch: rows that go through a step together, and the predictions' way back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Elements, Numbers, Rows, Times
from elman_server.engine.delivery import Delivery
from elman_server.engine.delivery import Outputs as Outputs
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.table import ENDED, SessionTable


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `stop - 1` of a batch."""

    receiver: Receiver
    """Receiver of the rows' predictions."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sessions of a step. Row `i` is the session in slot `slots[i]` and holds `counts[i]` elements,
    at most `chunk`."""

    table: SessionTable
    slots: Rows
    counts: Numbers
    chunk: int
    elements: Elements
    """Elements of all rows without padding, row after row: `[sum(counts), *shape]`."""
    times: Times
    """Arrival time of each element."""
    parts: list[Part]
    """All rows in order, with a part for each receiver."""
    fresh: list[int]
    """Rows that begin from the model's initial state instead of the slot's state."""
    outputs: frozenset[str]
    """Names of the outputs needed by any row."""

    def __len__(self) -> int:
        return len(self.slots)

    def part(self, start: int, stop: int) -> "Batch":
        """Returns rows `start` to `stop - 1` as a separate batch."""
        counts = self.counts[start:stop]
        first = int(self.counts[:start].sum())
        own = slice(first, first + int(counts.sum()))
        return Batch(
            table=self.table,
            slots=self.slots[start:stop],
            counts=counts,
            chunk=int(counts.max()),
            elements=self.elements[own],
            times=self.times[own],
            parts=[
                Part(part.receiver, max(part.start, start) - start, min(part.stop, stop) - start)
                for part in self.parts
                if part.start < stop and part.stop > start
            ],
            fresh=[row - start for row in self.fresh if start <= row < stop],
            outputs=self.outputs,
        )


def deliveries(batch: Batch, outputs: Outputs) -> Iterator[tuple[Outbox, Delivery]]:
    """Sorts a step's outputs by outbox and selection. Leaves out rows of ended sessions."""
    table = batch.table
    numbers, counts = table.number[batch.slots].tolist(), batch.counts.tolist()
    positions = table.position[batch.slots].tolist()
    gone: set[int] = set()
    if table.leavers:
        gone = set((table.leaving[batch.slots] == ENDED).nonzero()[0].tolist())
    first = 0
    for part in batch.parts:
        own = slice(part.start, part.stop)
        stop = first + sum(counts[own])
        elements, first = slice(first, stop), stop
        selection = part.receiver.selection
        whole = len(batch.parts) == 1
        delivery = Delivery(
            selection=selection,
            numbers=numbers[own],
            counts=counts[own],
            first_positions=positions[own],
            outputs={
                # A copy of the part, so that one caller's unread predictions do not keep the whole
                # array alive.
                name: _unpad(outputs[name] if whole else outputs[name][own].copy(), counts[own])
                for name in selection.names
            },
            times=batch.times if whole else batch.times[elements].copy(),
        )
        if gone and not gone.isdisjoint(range(part.start, part.stop)):
            present = [row not in gone for row in range(part.start, part.stop)]
            if not any(present):
                continue
            delivery = delivery.of(present)
        yield part.receiver.outbox, delivery


def _unpad(array: NDArray[Any], counts: list[int]) -> NDArray[Any]:
    """Removes the padding of `[rows, chunk, *shape]`; returns `[sum(counts), *shape]`."""
    rows, chunk, *shape = array.shape
    if rows == 1:
        return array[0, : counts[0]]
    if counts.count(chunk) == rows:
        return array.reshape(rows * chunk, *shape)
    kept: NDArray[Any] = array[np.arange(chunk) < np.array(counts)[:, None]]
    return kept
