"""Due times of the elements of an open loop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elman.bench.load import Load


@dataclass(frozen=True, slots=True)
class Schedule:
    """Elements in order of due time."""

    times: NDArray[np.float64]
    """Due times in seconds from the start."""
    sessions: NDArray[np.int64]
    """Sessions, 0-based."""

    @staticmethod
    def of(load: Load, sessions: Sequence[int], seed: int) -> "Schedule":
        """Draws a schedule for some of a load's sessions, for warm-up and measurement together.

        Bursts form a Poisson process, each burst for one session, at the sessions' share of the
        rate.
        """
        rng = np.random.default_rng([load.seed, seed])
        horizon = load.warm_up + load.seconds
        bursts_per_second = load.rate * len(sessions) / load.sessions / load.burst
        count = rng.poisson(bursts_per_second * horizon)
        starts = np.sort(rng.uniform(0, horizon, count))
        sizes = rng.geometric(1 / load.burst, count)
        whose = rng.integers(0, len(sessions), count)
        return Schedule(np.repeat(starts, sizes), np.repeat(whose, sizes))

    def due(self, sessions: int) -> "Due":
        """Due times ordered by session, for `sessions` sessions."""
        order = np.argsort(self.sessions, kind="stable")
        firsts = np.searchsorted(self.sessions[order], np.arange(sessions))
        return Due(self.times[order], firsts)


@dataclass(frozen=True, slots=True)
class Due:
    """Due time of each element of each session."""

    _times: NDArray[np.float64]
    _firsts: NDArray[np.int64]

    def at(self, sessions: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns due times in seconds from the start, for pairs of a session and a position."""
        due_times: NDArray[np.float64] = self._times[self._firsts[sessions] + positions]
        return due_times
