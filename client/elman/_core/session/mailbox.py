"""Predictions received and not yet read, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction


class Run:
    """Consecutive predictions of a session in a frame: rows `row` to `stop - 1`."""

    __slots__ = ("frame", "position", "row", "stop")

    def __init__(self, frame: Frame, row: int, stop: int, position: int) -> None:
        self.frame = frame
        self.row = row
        self.stop = stop
        self.position = position

    def first(self) -> Prediction:
        return Prediction(self.frame, self.row, self.position)


class Reader(Protocol):
    """Receiver of predictions."""

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        """Receives `count` predictions: the frame's rows from `row` on, with the first at
        `position`."""

    def take_runs(self) -> list[Run]:
        """Removes and returns all unread predictions, in order."""


class Mailbox:
    """A queue of predictions, kept as runs: an entry per message, not per element.

    `received` counts all predictions ever received; `len` counts the unread. One thread may put
    while another thread gets.
    """

    __slots__ = ("_read", "_runs", "received")

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._read = 0
        self.received = 0

    def __len__(self) -> int:
        return self.received - self._read

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        self._runs.append(Run(frame, row, row + count, position))
        self.received += count

    def get(self) -> Prediction:
        """Returns the oldest unread prediction. Raises `IndexError` for an empty mailbox."""
        run = self._runs[0]
        prediction = run.first()
        self._read += 1
        run.row += 1
        run.position += 1
        if run.row == run.stop:
            self._runs.popleft()
        return prediction

    def drain(self) -> Iterator[Prediction]:
        """Yields unread predictions until the mailbox is empty."""
        while self._runs:
            yield self.get()

    def take_runs(self) -> list[Run]:
        runs = list(self._runs)
        self._runs.clear()
        self._read = self.received
        return runs

    def merge(self, runs: Iterable[Run]) -> None:
        """Inserts runs in order of position. No position may be in the mailbox already."""
        runs = list(runs)
        self._runs = deque(sorted([*self._runs, *runs], key=lambda run: run.position))
        self.received += sum(run.stop - run.row for run in runs)


class Reply:
    """A mailbox for a single prediction."""

    __slots__ = ("run",)

    def __init__(self) -> None:
        self.run: Run | None = None

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        self.run = Run(frame, row, row + count, position)

    def take_runs(self) -> list[Run]:
        run, self.run = self.run, None
        return [] if run is None else [run]


class Routes:
    """Readers of the predictions in flight, by position."""

    __slots__ = ("_readers",)

    def __init__(self) -> None:
        # In order: each reader gets the predictions before position `stop`.
        self._readers: deque[tuple[int, Reader]] = deque()

    def __contains__(self, reader: Reader) -> bool:
        return any(other is reader for _, other in self._readers)

    def add(self, stop: int, reader: Reader) -> None:
        """Routes the predictions before position `stop`, not routed yet, to `reader`."""
        readers = self._readers
        if readers and readers[-1][1] is reader:
            readers[-1] = (stop, reader)
        else:
            readers.append((stop, reader))

    def redirect(self, reader: Reader, other: Reader) -> None:
        """Routes the predictions of `reader` to `other`."""
        for i, (stop, each) in enumerate(self._readers):
            if each is reader:
                self._readers[i] = (stop, other)

    def deliver(self, frame: Frame, row: int, count: int, position: int) -> None:
        """Hands out `count` predictions: the frame's rows from `row` on, with the first at
        `position`."""
        readers = self._readers
        while count:
            stop, reader = readers[0]
            share = min(count, stop - position)
            reader.put(frame, row, share, position)
            row += share
            position += share
            count -= share
            if position == stop:
                readers.popleft()
