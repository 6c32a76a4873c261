"""The limits of a step, and what of those who wait fits into one best."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from elman_server.engine.table import Numbers

Seconds = Callable[[int, int], float]
"""How long a step of so many rows and such a chunk takes."""

_LEAST_WANTED = 0.75
"""The share of what a step computes that is no padding. Somebody with a single element waits while
the step computes others' chunks, so long ones should not take short ones along."""
_KNOWN = 4096
_DIVIDED_SECONDS = 1e-3, 8e-3
"""A step that takes so long at least, and not as long as that, is divided if nothing else is to
do. A shorter one is over before the answers of its first half are out; a longer one loses more to
smaller matrices than callers need to answer."""
_STEP_SECONDS = 350e-6
_ROW_SECONDS = 2e-6
"""What a server spends on each step and on each row of one beside the model: see
docs/performance.md."""


class Chunking(Enum):
    """How many elements of a session may go through one step."""

    SINGLE = "single"
    """One: the graph takes no time axis."""
    EQUAL = "equal"
    """Several, as many for each row: the graph takes a time axis, but no lengths."""
    RAGGED = "ragged"
    """Several, each row its own number: the graph takes lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_batch_size: int
    """Rows of a step."""
    max_step_elements: int
    """Rows x chunk of a step."""
    max_chunk: int
    """Elements of a row."""
    chunking: Chunking
    max_beginning: int = 1
    """Sessions that begin together."""
    max_reading: int = 256
    """Sessions whose states are read, or put back, together."""

    @property
    def longest_chunk(self) -> int:
        if self.chunking is Chunking.SINGLE:
            return 1
        return min(self.max_chunk, self.max_step_elements)


class StepSizer:
    """Finds the step that answers the most elements a second."""

    def __init__(self, limits: StepLimits, seconds: Seconds) -> None:
        self._limits = limits
        self._seconds = seconds
        self._longest = limits.longest_chunk
        self._equal = limits.chunking is not Chunking.RAGGED
        self._uniform: dict[tuple[int, int], tuple[int, int]] = {}
        """What fits where as many wait for each row."""
        self._powers = [1 << exponent for exponent in range(self._longest.bit_length())]

    def fit(self, waiting: Numbers) -> tuple[int, int]:
        """How many rows, from the first on, and what chunk, where so many elements wait for each
        row: at least one each, and no more rows than a batch has."""
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
        """How many go first of those who could share a step, where nothing runs and nobody else
        waits. Half of them, if it pays: then their answers, and their next elements, are on the way
        while the others' step runs, and so in turn; otherwise the model would wait for all of their
        callers."""
        least, most = _DIVIDED_SECONDS
        if least <= self._seconds(rows, chunk) < most:
            return (rows + 1) // 2
        return rows

    def fit_one(self, waiting: int) -> int:
        """The chunk of a step of one row."""
        if waiting >= self._longest:
            waiting = self._longest
        return self._powers[waiting.bit_length() - 1] if self._equal else waiting

    def _chunks(self, most: int) -> list[int]:
        """Those to choose from. A chunk of another length than a power of two is only worth a shape
        of its own if nothing is left behind with it."""
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
