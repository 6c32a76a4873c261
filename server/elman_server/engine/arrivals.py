"""Arrivals: elements as they came, what sessions have of them, and when that was."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
"""What somebody has of an arrival: from which element, and before which. A plain tuple, as there is
one for each message at least."""


def joined(shares: Iterable[Share]) -> list[Share]:
    """Neighbours that follow on one another in the same arrival, made one."""
    runs: list[Share] = []
    current: Arrival | None = None
    first = last = 0
    for arrival, start, stop in shares:
        if arrival is not current or start != last:
            if current is not None:
                runs.append((current, first, last))
            current, first = arrival, start
        last = stop
    if current is not None:
        runs.append((current, first, last))
    return runs


class Runs:
    """Elements of rows, row after row: consecutive ones of one arrival after another."""

    __slots__ = ("_ends", "shares")

    def __init__(self, shares: list[Share]) -> None:
        self.shares = shares
        self._ends: list[int] | None = None

    @property
    def elements(self) -> list[Elements]:
        """Arrays `[n, *shape]` that are to be joined."""
        return [arrival.elements[start:stop] for arrival, start, stop in self.shares]

    @property
    def arrivals(self) -> "Arrivals":
        return Arrivals.of(self.shares)

    def part(self, start: int, stop: int) -> "Runs":
        """Elements `start` to `stop - 1` alone."""
        if self._ends is None:
            self._ends = list(accumulate(stop - start for _, start, stop in self.shares))
        shares: list[Share] = []
        index = bisect_right(self._ends, start)
        while start < stop:
            arrival, _, last = self.shares[index]
            begin = last - (self._ends[index] - start)
            end = min(last, begin + stop - start)
            shares.append((arrival, begin, end))
            start += end - begin
            index += 1
        return Runs(shares)

    def split(self, elements: int) -> "tuple[Runs, Runs]":
        """The first so many, and the others."""
        if len(self.shares) == 1:
            ((arrival, start, stop),) = self.shares
            middle = start + elements
            return Runs([(arrival, start, middle)]), Runs([(arrival, middle, stop)])
        return self.part(0, elements), self.part(elements, len(self))

    def rows(self, counts: NDArray[np.int64], rows: NDArray[np.intp]) -> "Runs":
        """Those of some rows alone, where each row has so many; the rows ascend."""
        ends = np.cumsum(counts)
        breaks = ((rows[1:] - rows[:-1]) != 1).nonzero()[0] + 1
        shares: list[Share] = []
        start = 0
        for end in [*breaks.tolist(), len(rows)]:
            if end > start:
                first, last = int(rows[start]), int(rows[end - 1])
                shares += self.part(int(ends[first] - counts[first]), int(ends[last])).shares
            start = end
        return Runs(shares)

    @staticmethod
    def joined(parts: "list[Runs]") -> "Runs":
        if len(parts) == 1:
            return parts[0]
        return Runs(joined(share for part in parts for share in part.shares))

    def __len__(self) -> int:
        """Elements."""
        return sum(stop - start for _, start, stop in self.shares)


# Not frozen: there is one for every message, and being frozen costs more than all that is done with
# it.


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
