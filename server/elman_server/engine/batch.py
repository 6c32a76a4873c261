"""A batch: the rows that go through one step together, and their predictions on the way back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrivals import Elements, Runs
from elman_server.engine.delivery import Delivery
from elman_server.engine.delivery import Outputs as Outputs
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.table import ENDED, Numbers, Rows, SessionTable

if TYPE_CHECKING:
    from elman_server.engine.session import Session


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `stop - 1` of a batch."""

    receiver: Receiver
    """Of their predictions."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Row `i` is a session's whose slot is `slots[i]`, and holds `counts[i]` elements, at most
    `chunk`."""

    table: SessionTable
    slots: Rows
    counts: Numbers
    chunk: int
    runs: Runs
    """The elements without padding."""
    parts: list[Part]
    """All rows, in their order."""
    fresh: list[int]
    """Rows that begin from the model's initial state instead of from their slot's."""
    outputs: frozenset[str]
    """The outputs that some row wants."""

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def sessions(self) -> "list[Session]":
        """Whose the rows are, until the step is over."""
        return self.table.of(self.slots)

    @property
    def elements(self) -> list[Elements]:
        """Arrays `[n, *shape]` that, joined, are the rows' elements without padding, row after
        row."""
        return self.runs.elements

    def part(self, start: int, stop: int) -> "Batch":
        """Rows `start` to `stop - 1` as a batch of their own."""
        counts = self.counts[start:stop]
        first = int(self.counts[:start].sum())
        return Batch(
            table=self.table,
            slots=self.slots[start:stop],
            counts=counts,
            chunk=int(counts.max()),
            runs=self.runs.part(first, first + int(counts.sum())),
            parts=[
                Part(part.receiver, max(part.start, start) - start, min(part.stop, stop) - start)
                for part in self.parts
                if part.start < stop and part.stop > start
            ],
            fresh=[row - start for row in self.fresh if start <= row < stop],
            outputs=self.outputs,
        )


def deliveries(batch: Batch, outputs: Outputs) -> Iterator[tuple[Outbox, Delivery]]:
    """Sorts a step's outputs by who gets them. Rows of ended sessions go to nobody."""
    if len(batch.parts) == 1 and not batch.table.leavers:
        receiver = batch.parts[0].receiver
        yield receiver.outbox, _delivery(batch, receiver, None, batch.runs, outputs)
        return
    for receiver, rows in _rows_by_receiver(batch):
        runs = batch.runs.rows(batch.counts, rows)
        yield receiver.outbox, _delivery(batch, receiver, rows, runs, outputs)


def _delivery(
    batch: Batch, receiver: Receiver, rows: NDArray[np.intp] | None, runs: Runs, outputs: Outputs
) -> Delivery:
    """What a receiver gets of some rows; None: of all."""
    slots, counts = batch.slots, batch.counts
    if rows is not None:
        slots, counts = slots[rows], counts[rows]
        # Copies, so that what one caller has not read yet keeps nobody else's predictions alive.
        outputs = {name: outputs[name][rows] for name in receiver.selection.names}
    return Delivery(
        selection=receiver.selection,
        numbers=batch.table.number[slots].tolist(),
        counts=counts.tolist(),
        first_positions=batch.table.position[slots].tolist(),
        outputs={name: _unpad(outputs[name], counts) for name in receiver.selection.names},
        arrivals=runs.arrivals,
    )


def _rows_by_receiver(batch: Batch) -> Iterator[tuple[Receiver, NDArray[np.intp]]]:
    """Rows of sessions that have not ended."""
    rows = np.arange(len(batch))
    here = batch.table.leaving[batch.slots] != ENDED
    found: dict[Receiver, list[NDArray[np.intp]]] = {}
    for part in batch.parts:
        found.setdefault(part.receiver, []).append(rows[part.start : part.stop])
    for receiver, pieces in found.items():
        wanted = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        if batch.table.leavers:
            wanted = wanted[here[wanted]]
        if len(wanted):
            yield receiver, wanted


def _unpad(array: NDArray[Any], counts: Numbers) -> NDArray[Any]:
    """`[rows, chunk, *shape]` without its padding: `[sum(counts), *shape]`."""
    rows, chunk, *shape = array.shape
    if np.count_nonzero(counts == chunk) == rows:
        return array.reshape(rows * chunk, *shape)
    kept: NDArray[Any] = array[np.arange(chunk) < counts[:, None]]
    return kept
