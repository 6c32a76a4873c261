"""Slices of a push: the elements for each session, a limited number at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray


class Pause(Enum):
    """What a large frame waits for between two parts."""

    TURN = auto()
    """The connection's turn, if the turn before is over."""
    ROOM = auto()
    """The connection's turn, and room for what the next part adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSlice:
    """Entries of a push, beginning with entry `first`. The first entry may have begun in an earlier
    slice, and the last entry may continue in a later slice."""

    first: int
    counts: Sequence[int]
    """Number of elements of each entry in the slice."""
    begins: bool
    """Whether the first entry begins in the slice."""
    start: int
    stop: int
    """The slice holds elements `start` to `stop - 1` of the push."""


def sliced(counts: NDArray[np.int64], *, elements: int, entries: int) -> Iterator[PushSlice]:
    """Yields slices of a push with at most `elements` elements and `entries` entries each. `counts`
    are the numbers of elements of the push's entries."""
    ends = np.cumsum(counts)
    first = start = 0
    while first < len(counts):
        # A slice with the maximum number of elements ends with the entry that fills it.
        filled = int(np.searchsorted(ends, start + elements)) + 1
        after = min(filled, first + entries, len(counts))
        end = int(ends[after - 1])
        stop = min(end, start + elements)
        own = counts[first:after].tolist()
        begins = start == int(ends[first]) - own[0]
        own[0] = int(ends[first]) - start
        own[-1] -= end - stop
        yield PushSlice(first=first, counts=own, begins=begins, start=start, stop=stop)
        first, start = (after if stop == end else after - 1), stop
