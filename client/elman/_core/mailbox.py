"""Predictions that have come and have not been read, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction


class Run:
    """Consecutive predictions of one session in one frame: rows `row` to `stop`."""

    __slots__ = ("frame", "position", "row", "stop")

    def __init__(self, frame: Frame, row: int, stop: int, position: int) -> None:
        self.frame = frame
        self.row = row
        self.stop = stop
        self.position = position

    def first(self) -> Prediction:
        return Prediction(self.frame, self.row, self.position)


class Reader(Protocol):
    """Whoever predictions are for."""

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        """`count` predictions have come: the rows from `row` on, the first for `position`."""

    def take_runs(self) -> list[Run]:
        """Gives up everything that is unread, in order."""


class Mailbox:
    """A queue of predictions, kept as runs: one entry for each message, not for each element.

    `received` counts all that ever came; `len` is how many of them are unread. While one thread
    puts, another may get.
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
        """The oldest prediction. Raises `IndexError` if there is none."""
        run = self._runs[0]
        prediction = run.first()
        self._read += 1
        run.row += 1
        run.position += 1
        if run.row == run.stop:
            self._runs.popleft()
        return prediction

    def drain(self) -> Iterator[Prediction]:
        """What is unread, one by one, until nothing is."""
        while self._runs:
            yield self.get()

    def take_runs(self) -> list[Run]:
        runs = list(self._runs)
        self._runs.clear()
        self._read = self.received
        return runs

    def merge(self, runs: Iterable[Run]) -> None:
        """Adds runs at the places of their positions, which are others than those of its own."""
        runs = list(runs)
        self._runs = deque(sorted([*self._runs, *runs], key=lambda run: run.position))
        self.received += sum(run.stop - run.row for run in runs)


class Reply:
    """A mailbox for one prediction."""

    __slots__ = ("run",)

    def __init__(self) -> None:
        self.run: Run | None = None

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        self.run = Run(frame, row, row + count, position)

    def take_runs(self) -> list[Run]:
        run, self.run = self.run, None
        return [] if run is None else [run]
