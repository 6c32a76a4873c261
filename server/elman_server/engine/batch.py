"""A batch: the rows that go through one step together, and their predictions on the way back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from elman_server.engine.outbox import Outbox
    from elman_server.engine.session import Session
    from elman_server.selection import EncodedValues

_HELD_NBYTES = 1024
"""What a delivery takes in memory beside its predictions, roughly."""
_SENT_NBYTES = 64
_SENT_NBYTES_OF_SESSION = 16
"""What it takes on the wire beside its predictions, roughly."""

Outputs = Mapping[str, NDArray[Any]]
"""A step's outputs by name: `[rows, chunk, *shape]`."""


Elements = NDArray[Any]
"""Elements of a model's input: `[n, *shape]`."""


class Arrival:
    """Elements of any number of sessions that arrived together."""

    __slots__ = ("elements", "time")

    def __init__(self, elements: Elements, time: float) -> None:
        self.elements = elements
        self.time = time
        """Seconds on the engine's clock."""


Share = tuple[Arrival, int, int]
"""What a session has of an arrival: from which element, and before which. A plain tuple, as there
is one for each session of each push."""


class Selection(Protocol):
    """What a session wants of each prediction. Compared by identity."""

    @property
    def names(self) -> frozenset[str]:
        """The model's outputs that it needs."""

    @property
    def element_nbytes(self) -> int:
        """Bytes of one prediction as it is sent."""

    def encode(self, outputs: "Outputs") -> "list[EncodedValues]":
        """Packs `n` predictions, `[n, *shape]` by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows in the order of `sessions`; row `i` holds `counts[i]` elements, at most `chunk`."""

    sessions: list["Session"]
    slots: list[int]
    counts: list[int]
    chunk: int
    shares: "Shares"
    fresh: list[int]
    """Rows that begin from the model's initial state instead of from their slot's."""
    outputs: frozenset[str]
    """The outputs that some row wants."""

    @property
    def elements(self) -> list[Elements]:
        """Arrays `[n, *shape]` that, joined, are the rows' elements without padding, row after
        row."""
        return [arrival.elements[start:stop] for arrival, start, stop in self.shares.runs]

    def part(self, start: int, stop: int) -> "Batch":
        """Rows `start` to `stop - 1` as a batch of their own."""
        counts = self.counts[start:stop]
        return Batch(
            sessions=self.sessions[start:stop],
            slots=self.slots[start:stop],
            counts=counts,
            chunk=max(counts),
            shares=self.shares.of(range(start, stop)),
            fresh=[row - start for row in self.fresh if start <= row < stop],
            outputs=self.outputs,
        )


class Shares:
    """What the rows of a step have of which arrivals, row after row."""

    __slots__ = ("_ends", "_shares", "runs")

    def __init__(self, shares: list[Share], ends: list[int]) -> None:
        """Those of row `i` end before `ends[i]`, where those of the next begin."""
        self._shares = shares
        self._ends = ends
        self.runs = list(_joined(shares))
        """The same in as few pieces as there are."""

    def of(self, rows: Iterable[int]) -> "Shares":
        """Those of some rows alone."""
        shares: list[Share] = []
        ends: list[int] = []
        for row in rows:
            shares += self._of_row(row)
            ends.append(len(shares))
        return Shares(shares, ends)

    def arrivals_of(self, row: int) -> "Arrivals":
        return Arrivals.of(self._of_row(row))

    @property
    def arrivals(self) -> "Arrivals":
        return Arrivals.of(self.runs)

    def _of_row(self, row: int) -> list[Share]:
        return self._shares[self._ends[row - 1] if row else 0 : self._ends[row]]


def _joined(shares: Iterable[Share]) -> Iterator[Share]:
    """Neighbours that follow on one another in the same arrival, made one."""
    current: Arrival | None = None
    first = last = 0
    for arrival, start, stop in shares:
        if arrival is not current or start != last:
            if current is not None:
                yield current, first, last
            current, first = arrival, start
        last = stop
    if current is not None:
        yield current, first, last


# This and a delivery are not frozen: there is one of each for every message, and being frozen costs
# more than all that is done with them.


@dataclass(slots=True, kw_only=True)
class Arrivals:
    """When elements arrived: `counts[i]` of them at `times[i]` seconds."""

    times: list[float]
    counts: list[int]

    @staticmethod
    def of(shares: list[Share]) -> "Arrivals":
        return Arrivals(
            times=[arrival.time for arrival, _, _ in shares],
            counts=[stop - start for _, start, stop in shares],
        )

    def ages(self, now: float) -> list[float]:
        """How many seconds ago each entry arrived."""
        return [now - time for time in self.times]


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Predictions of sessions with the same outbox and selection, packed as they are sent."""

    selection: Selection
    sessions: list["Session"]
    counts: list[int]
    first_positions: list[int]
    outputs: Outputs
    """By name: `[sum(counts), *shape]`."""
    arrivals: Arrivals

    @property
    def held_nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return _HELD_NBYTES + sum(array.nbytes for array in self.outputs.values())

    @property
    def sent_nbytes(self) -> int:
        """Bytes that it takes as it is sent."""
        predictions = sum(self.counts) * self.selection.element_nbytes
        return _SENT_NBYTES + len(self.sessions) * _SENT_NBYTES_OF_SESSION + predictions

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
            yield self._part(first, min(first + room, total), last=first + room >= total)

    def _part(self, first: int, stop: int, *, last: bool) -> "Delivery":
        """Predictions `first` to `stop - 1`, counted over all sessions."""
        sessions, counts, positions = [], [], []
        start = 0
        for session, count, position in zip(
            self.sessions, self.counts, self.first_positions, strict=True
        ):
            low, high = max(first, start), min(stop, start + count)
            if low < high:
                sessions.append(session)
                counts.append(high - low)
                positions.append(position + low - start)
            start += count
        return Delivery(
            selection=self.selection,
            sessions=sessions,
            counts=counts,
            first_positions=positions,
            outputs={name: array[first:stop] for name, array in self.outputs.items()},
            # The arrivals are counted once, with the part that goes out last.
            arrivals=self.arrivals if last else Arrivals(times=[], counts=[]),
        )


def deliveries(
    batch: Batch, positions: list[int], outputs: Outputs
) -> Iterator[tuple["Outbox", Delivery]]:
    """Sorts a step's outputs by who gets them.

    `positions[i]` is the position of row `i`'s first element. Rows of ended sessions go to nobody.
    """
    for rows in _rows_by_receiver(batch.sessions):
        if len(rows) == 1:
            yield _of_one(batch, rows[0], positions, outputs)
            continue
        whole = len(rows) == len(batch.sessions)
        sessions = batch.sessions if whole else [batch.sessions[row] for row in rows]
        counts = batch.counts if whole else [batch.counts[row] for row in rows]
        selection = sessions[0].selection
        yield (
            sessions[0].outbox,
            Delivery(
                selection=selection,
                sessions=sessions,
                counts=counts,
                first_positions=positions if whole else [positions[row] for row in rows],
                outputs={
                    name: _unpad(outputs[name] if whole else _rows(outputs[name], rows), counts)
                    for name in selection.names
                },
                arrivals=(batch.shares if whole else batch.shares.of(rows)).arrivals,
            ),
        )


def _of_one(
    batch: Batch, row: int, positions: list[int], outputs: Outputs
) -> tuple["Outbox", Delivery]:
    """What a caller gets that has one row of the step, as those have that do not multiplex."""
    session, count = batch.sessions[row], batch.counts[row]
    delivery = Delivery(
        selection=session.selection,
        sessions=[session],
        counts=[count],
        first_positions=[positions[row]],
        # Copies, so that what one caller has not read yet keeps nobody else's predictions alive.
        outputs={name: outputs[name][row, :count].copy() for name in session.selection.names},
        arrivals=batch.shares.arrivals_of(row),
    )
    return session.outbox, delivery


def _rows_by_receiver(sessions: list["Session"]) -> Iterable[Sequence[int]]:
    first = sessions[0]
    outbox, selection = first.outbox, first.selection
    for session in sessions:
        if (
            session.outbox is not outbox
            or session.selection is not selection
            or session.ended is not None
        ):
            break
    else:  # one caller with one selection, as multiplexing clients have
        return [range(len(sessions))]
    groups: dict[tuple[int, int], list[int]] = {}
    for row, session in enumerate(sessions):
        if session.ended is None:
            groups.setdefault((id(session.outbox), id(session.selection)), []).append(row)
    return groups.values()


def _rows(array: NDArray[Any], rows: Sequence[int]) -> NDArray[Any]:
    """A copy, so that what one caller has not read yet keeps nobody else's predictions alive."""
    return array[rows]


def _unpad(array: NDArray[Any], counts: list[int]) -> NDArray[Any]:
    """`[rows, chunk, *shape]` without its padding: `[sum(counts), *shape]`."""
    rows, chunk, *shape = array.shape
    if counts.count(chunk) == len(counts):
        return array.reshape(rows * chunk, *shape)
    kept: NDArray[Any] = array[np.arange(chunk) < np.array(counts)[:, None]]
    return kept
