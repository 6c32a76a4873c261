"""The task: a stream of letters, a few of which are asked for a known number of elements later.

Each lag has its own *mark* and its own *prompt*. The letter after a mark is to be remembered;
exactly `lag` elements after that letter comes the prompt that asks for it. All other elements are
letters too, so that what to remember does not look different from what to forget. At a prompt the
answer is the letter, everywhere else it is *nothing*.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

LETTERS = "ABCDEFGH"
"""Guessing is right once in so many times."""
NOTHING = len(LETTERS)
"""The answer where nothing is asked for."""
PERIOD = 72
"""Elements from one mark of a lag to its next, on average: the same for every lag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    elements: Ids
    """`[batch, time]`"""
    answers: Ids
    """`[batch, time]`"""
    lags: Ids
    """`[batch, time]`: at a prompt its lag, elsewhere 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    lags: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What each id stands for."""
        return (
            *LETTERS,
            *(f"mark {lag}" for lag in self.lags),
            *(f"prompt {lag}" for lag in self.lags),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What each answer stands for."""
        return (*LETTERS, "nothing")

    def streams(self, batch: int, time: int, rng: np.random.Generator) -> Streams:
        """Random streams with the marks and prompts of every lag."""
        elements = rng.integers(0, len(LETTERS), (batch, time))
        answers = np.full((batch, time), NOTHING)
        lags = np.zeros((batch, time), np.int64)
        for row in range(batch):
            # A mark never overwrites another's mark, letter or prompt.
            taken = np.zeros(time, bool)
            for lag in sorted(self.lags, reverse=True):
                for mark in self._marks(lag, taken, rng):
                    prompt = mark + 1 + lag
                    elements[row, mark] = len(LETTERS) + self.lags.index(lag)
                    elements[row, prompt] = len(LETTERS) + len(self.lags) + self.lags.index(lag)
                    answers[row, prompt] = elements[row, mark + 1]
                    lags[row, prompt] = lag
        return Streams(elements=elements, answers=answers, lags=lags)

    @staticmethod
    def _marks(lag: int, taken: NDArray[np.bool_], rng: np.random.Generator) -> Sequence[int]:
        """Where marks stand; takes their places, their letters' and their prompts'."""
        marks = []
        longest_gap = 2 * (PERIOD - lag)
        mark = int(rng.integers(longest_gap))
        while mark + 1 + lag < len(taken):
            places = [mark, mark + 1, mark + 1 + lag]
            if taken[places].any():
                mark += 1
                continue
            taken[places] = True
            marks.append(mark)
            mark += lag + 2 + int(rng.integers(longest_gap))
        return marks
