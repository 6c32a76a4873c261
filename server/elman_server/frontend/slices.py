"""A push in slices: which sessions get which of its elements, a bounded number at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSlice:
    """Entries `first` and following of a push. Of the first entry, earlier slices may hold more
    elements, and of the last one, later slices."""

    first: int
    counts: Sequence[int]
    """The elements of each entry that are in this slice."""
    begins: bool
    """Whether the first entry begins here."""
    start: int
    stop: int
    """Its elements are those from `start` to `stop - 1` of the push."""


def sliced(counts: NDArray[np.int64], *, elements: int, entries: int) -> Iterator[PushSlice]:
    """All elements of a push whose entries bring `counts`, in slices of at most so many elements
    and entries."""
    ends = np.cumsum(counts)
    first = start = 0
    while first < len(counts):
        # A slice that is full of elements ends with the entry that fills it.
        filled = int(np.searchsorted(ends, start + elements)) + 1
        after = min(filled, first + entries, len(counts))
        end = int(ends[after - 1])
        stop = min(end, start + elements)
        own = counts[first:after].tolist()
        begins = start == ends[first] - own[0]
        own[0] = int(ends[first]) - start
        own[-1] -= end - stop
        yield PushSlice(first=first, counts=own, begins=begins, start=start, stop=stop)
        first, start = (after if stop == end else after - 1), stop
