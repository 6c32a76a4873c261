"""Task: a stream of letters with questions about earlier letters.

Each lag has a *mark* and a *prompt*. The letter after a mark is to be remembered. The prompt comes
exactly `lag` elements after the letter. All other elements are letters too, so letters to remember
and letters to forget look alike. At a prompt, the answer is the letter; elsewhere, the answer is
*nothing*.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

LETTERS = "ABCDEFGH"
"""Number of letters: a guess is right once in this many times."""
NOTHING = len(LETTERS)
"""Answer at elements other than prompts."""
PERIOD = 72
"""Mean number of elements between two marks of a lag, equal for every lag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    elements: Ids
    """`[batch, time]`"""
    answers: Ids
    """`[batch, time]`"""
    lags: Ids
    """`[batch, time]`: the lag at a prompt, elsewhere 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    lags: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Meaning of each id."""
        return (
            *LETTERS,
            *(f"mark {lag}" for lag in self.lags),
            *(f"prompt {lag}" for lag in self.lags),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Meaning of each answer."""
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
        """Positions of marks. Reserves the places of marks, letters and prompts."""
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
