"""Predictions that have come and have not been read, in order."""

from collections import deque

from elman._outputs import Frame
from elman._prediction import Prediction


class Run:
    """Consecutive predictions of one session in one frame: rows `row` to `stop`."""

    __slots__ = ("frame", "position", "row", "stop")

    def __init__(self, frame: Frame, row: int, stop: int, position: int) -> None:
        self.frame = frame
        self.row = row
        self.stop = stop
        self.position = position


class Mailbox:
    """A queue of predictions, kept as runs: one entry for each message, not for each element.

    `received` counts all that ever came; `len` is how many of them are unread.
    """

    __slots__ = ("_runs", "_unread", "received")

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._unread = 0
        self.received = 0

    def __len__(self) -> int:
        return self._unread

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        self._runs.append(Run(frame, row, row + count, position))
        self._unread += count
        self.received += count

    def get(self) -> Prediction:
        """The oldest prediction. Raises `IndexError` if there is none."""
        run = self._runs[0]
        prediction = Prediction(run.frame, run.row, run.position)
        run.row += 1
        run.position += 1
        if run.row == run.stop:
            self._runs.popleft()
        self._unread -= 1
        return prediction

    def take_runs(self) -> list[Run]:
        """Everything that is unread."""
        runs = list(self._runs)
        self._runs.clear()
        self._unread = 0
        return runs

    def merge(self, other: "Mailbox") -> None:
        """Takes over what is unread in `other`, which holds other positions of the same session."""
        self._unread += len(other)
        self._runs = deque(sorted([*self._runs, *other.take_runs()], key=lambda run: run.position))
