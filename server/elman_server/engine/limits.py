"""The limits of a step, and the choice of its rows and chunk."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from elman_server.engine.arrays import Numbers

Seconds = Callable[[int, int], float]
"""Seconds of a step by rows and chunk."""

_LEAST_WANTED = 0.75
"""Least share of useful elements in a step; the rest is padding. A session with a single element
waits while the step computes longer chunks, so long chunks should not share a step with short
ones."""
_KNOWN = 4096
_DIVIDED_SECONDS = 1e-3, 8e-3
"""A step is divided if its seconds lie in this range and no other work waits. A shorter step is
over before the first half's answers are sent. A longer step loses more time to smaller matrices
than callers need to answer."""
_STEP_SECONDS = 350e-6
_ROW_SECONDS = 2e-6
"""Seconds that the server spends on each step, and on each row, beside the model. Source:
docs/performance.md."""


class Chunking(Enum):
    """Limit on a session's elements in one step."""

    SINGLE = "single"
    """One: the graph has no time axis."""
    EQUAL = "equal"
    """Several, equally many in each row: the graph has a time axis, but no lengths input."""
    RAGGED = "ragged"
    """Several, with a length for each row: the graph has a lengths input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_batch_size: int
    """Rows of a step."""
    max_step_elements: int
    """Rows times chunk of a step."""
    max_chunk: int
    """Elements of a row."""
    chunking: Chunking
    max_init_batch_size: int = 1
    """Sessions of an `InitJob`."""
    max_capture_batch_size: int = 256
    """Sessions of a `CaptureJob` or `RestoreJob`."""

    @property
    def longest_chunk(self) -> int:
        if self.chunking is Chunking.SINGLE:
            return 1
        return min(self.max_chunk, self.max_step_elements)


class StepSizer:
    """Finds the step that answers the most elements per second."""

    def __init__(self, limits: StepLimits, seconds: Seconds) -> None:
        self._limits = limits
        self._seconds = seconds
        self._longest = limits.longest_chunk
        self._equal = limits.chunking is not Chunking.RAGGED
        self._uniform: dict[tuple[int, int], tuple[int, int]] = {}
        """Best rows and chunk by rows and elements, where each row has equally many elements
        waiting."""
        self._powers = [1 << exponent for exponent in range(self._longest.bit_length())]

    def fit(self, waiting: Numbers) -> tuple[int, int]:
        """Returns the best number of rows, from the first on, and the best chunk. `waiting`:
        elements of each row, at least 1; no more rows than a batch may have. The ready queue
        decides the order of the rows, and a step takes a prefix."""
        most = int(np.maximum.reduce(waiting))
        rows = min(len(waiting), self._limits.max_step_elements)
        if most == 1 or self._longest == 1:
            return rows, 1
        if np.count_nonzero(waiting == most) < len(waiting):
            return self._best(waiting, most)
        known = self._uniform.get((len(waiting), most))
        if known is None:
            known = self._best(waiting, most)
            if len(self._uniform) < _KNOWN:
                self._uniform[len(waiting), most] = known
        return known

    def _best(self, waiting: Numbers, most: int) -> tuple[int, int]:
        rows = min(len(waiting), self._limits.max_step_elements)
        found, best = (rows, 1), -1.0
        for chunk in self._chunks(most):
            rows = self._rows(waiting, chunk)
            if not rows:
                break
            wanted = int(np.add.reduce(np.minimum(waiting[:rows], chunk)))
            if wanted < _LEAST_WANTED * rows * chunk:
                continue
            seconds = _STEP_SECONDS + _ROW_SECONDS * rows + self._seconds(rows, chunk)
            if wanted > best * seconds:
                found, best = (rows, chunk), wanted / seconds
        return found

    def first_part(self, rows: int, chunk: int) -> int:
        """Returns how many of the rows go first when the model is idle and no other session waits.

        A step in the range `_DIVIDED_SECONDS` is halved: the answers of one half, and the next
        elements, travel while the other half computes, and so on in turn. Undivided, the model
        would wait for all callers at once.
        """
        least, most = _DIVIDED_SECONDS
        if least <= self._seconds(rows, chunk) < most:
            return (rows + 1) // 2
        return rows

    def fit_one(self, waiting: int) -> int:
        """Returns the chunk of a step with a single row."""
        if waiting >= self._longest:
            waiting = self._longest
        return self._powers[waiting.bit_length() - 1] if self._equal else waiting

    def _chunks(self, most: int) -> list[int]:
        """Returns the candidate chunks. A chunk other than a power of two pays for a separate shape
        only if no element stays behind."""
        if most > self._longest:
            most = self._longest
        chunks = self._powers[: most.bit_length()]
        if self._equal or chunks[-1] == most:
            return chunks
        return [*chunks, most]

    def _rows(self, waiting: Numbers, chunk: int) -> int:
        rows = min(len(waiting), self._limits.max_step_elements // chunk)
        if self._equal:
            short = waiting[:rows] < chunk
            if np.count_nonzero(short):
                rows = int(short.argmax())
        return rows
