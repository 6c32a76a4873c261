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
    table, rows = batch.table, np.arange(len(batch))
    if table.leavers:
        rows = rows[table.leaving[batch.slots] != ENDED]
    told = _Told(
        outputs=outputs,
        numbers=table.number[batch.slots].tolist(),
        counts=batch.counts.tolist(),
        first_positions=table.position[batch.slots].tolist(),
        runs=batch.runs,
    )
    if len(rows) == len(batch) and len({part.receiver for part in batch.parts}) == len(batch.parts):
        for part in batch.parts:
            yield part.receiver.outbox, told.stretch(part)
        return
    present = set(rows.tolist())
    for receiver, wanted in _rows_by_receiver(batch.parts).items():
        own = [row for row in wanted if row in present]
        if own:
            yield receiver.outbox, told.some(receiver, own)


def _rows_by_receiver(parts: list[Part]) -> dict[Receiver, list[int]]:
    found: dict[Receiver, list[int]] = {}
    for part in parts:
        found.setdefault(part.receiver, []).extend(range(part.start, part.stop))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What there is to tell of a step's rows, as lists, for who has a row or two of many."""

    outputs: Outputs
    numbers: list[int]
    counts: list[int]
    first_positions: list[int]
    runs: Runs

    def stretch(self, part: Part) -> Delivery:
        """Of the rows of a part."""
        own = slice(part.start, part.stop)
        counts = self.counts[own]
        whole = len(counts) == len(self.counts)
        runs = self.runs
        if not whole:
            before = sum(self.counts[: part.start])
            runs = runs.part(before, before + sum(counts))
        return Delivery(
            selection=part.receiver.selection,
            numbers=self.numbers[own],
            counts=counts,
            first_positions=self.first_positions[own],
            outputs={
                # A copy of a part, so that what one caller has not read yet keeps nobody else's
                # predictions alive.
                name: _unpad(
                    self.outputs[name] if whole else self.outputs[name][own].copy(), counts
                )
                for name in part.receiver.selection.names
            },
            arrivals=(
                self.runs if whole else self.runs.part(before, before + sum(counts))
            ).arrivals,
        )

    def some(self, receiver: Receiver, rows: list[int]) -> Delivery:
        """Of some rows, which ascend."""
        counts = [self.counts[row] for row in rows]
        runs = self.runs.rows(np.array(self.counts), np.array(rows))
        return Delivery(
            selection=receiver.selection,
            numbers=[self.numbers[row] for row in rows],
            counts=counts,
            first_positions=[self.first_positions[row] for row in rows],
            outputs={
                name: _unpad(self.outputs[name][rows], counts) for name in receiver.selection.names
            },
            arrivals=runs.arrivals,
        )


def _unpad(array: NDArray[Any], counts: list[int]) -> NDArray[Any]:
    """`[rows, chunk, *shape]` without its padding: `[sum(counts), *shape]`."""
    rows, chunk, *shape = array.shape
    if rows == 1:
        return array[0, : counts[0]]
    if counts.count(chunk) == rows:
        return array.reshape(rows * chunk, *shape)
    kept: NDArray[Any] = array[np.arange(chunk) < np.array(counts)[:, None]]
    return kept
