"""A step: the job that takes a batch of rows through the model, and the predictions' way back."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.arrays import Elements, Numbers, Rows, Times
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.nonfinite import count_nonfinite
from elman_server.engine.jobs.settled import Settle, Settled, Span
from elman_server.engine.lifecycle import Lifecycle
from elman_server.engine.outboxes.delivery import Delivery
from elman_server.engine.outboxes.delivery import Outputs as Outputs
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.phase import ENDED
from elman_server.engine.sessions.table import SessionTable
from elman_server.engine.stats import StepStats


class StepRunner(Protocol):
    def run(self, batch: "Batch", interrupt: Interrupt | None = None) -> Outputs:
        """Takes the rows' states from their slots, runs the step, and puts the new states back.

        Returns the outputs that the batch wants, `[rows, chunk, *shape]`. Values beyond a row's own
        elements are undefined. After an exception the states of the batch's rows are unchanged.
        """


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

    data_dependent = True
    failure = "the model failed in a step; the session's state is lost"

    def __len__(self) -> int:
        return len(self.slots)

    def seconds(self, estimates: Estimates) -> float:
        return estimates.step_seconds(len(self), self.chunk)

    def run(self, runner: StepRunner, interrupt: Interrupt | None) -> Settle:
        return partial(self.settle, runner.run(self, interrupt))

    def settle(self, outputs: Outputs, lifecycle: Lifecycle, span: Span) -> Settled:
        """Puts predictions into the outboxes and counts the elements as answered."""
        sorted_out = list(deliveries(self, outputs))
        for outbox, delivery in sorted_out:
            outbox.deliver(delivery)
        answered = sum(sum(delivery.counts) for _, delivery in sorted_out)
        return Settled(
            outboxes={outbox for outbox, _ in sorted_out},
            ended=lifecycle.complete(self.slots, self.counts, span.end),
            stats=partial(self._stats, span, outputs, answered),
        )

    def fail(self, lifecycle: Lifecycle, ending: Ending, span: Span) -> Settled:
        settled = Settled.of(lifecycle.fail(self.slots.tolist(), ending))
        return replace(settled, stats=partial(self._stats, span, {}, 0))

    def _stats(self, span: Span, outputs: Outputs, answered: int) -> StepStats:
        return StepStats(
            batch_size=len(self),
            answered=answered,
            seconds=span.end - span.start,
            queue_delays=span.start - self.times,
            nonfinite=count_nonfinite(outputs, self.counts),
        )

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
        gone = set((table.stage[batch.slots] == ENDED).nonzero()[0].tolist())
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
