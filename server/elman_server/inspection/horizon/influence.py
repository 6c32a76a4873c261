"""What one element does to later predictions of one output, by lag.

The *influence* at a lag is the distance between the prediction that many elements later and the one
that would have come had the element been another, averaged over many places:

- logits, and probabilities that sum to one: the total variation distance of the two distributions,
  half the sum of |p - q|;
- other probabilities: |p - q|, which is the total variation distance of a yes or no;
- values: |y - y'| over the standard deviation of that entry of the output in the sample.

An output with several entries, or several distributions, takes the mean of theirs. All is divided
by the influence at lag 0, on the element's own prediction.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.model.selection import softmax
from elman_server.model.spec import OutputKind, OutputSpec

Array = NDArray[Any]
Doubles = NDArray[np.float64]

THRESHOLD = 0.01
"""Where an element counts as forgotten: a hundredth of its influence on its own prediction."""

_SUM = 1e-3
"""How far from one the sum of a distribution may be."""


class HorizonError(Exception):
    """What keeps a horizon from being measured, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    output: str
    distance: str
    """What was measured between two predictions, for people."""
    reference: int
    """The lag whose influence is one: 0, or the lag of the largest if an element has none on its
    own prediction."""
    absolute: float
    """The influence at the reference, as it was measured; 0 if there is none at any lag."""
    relative: tuple[float, ...]
    """`[lags + 1]`: the influence at each lag over that at the reference."""

    @property
    def horizon(self) -> int | None:
        """The lag from which on the influence stays under `THRESHOLD`; None if it does not, as far
        as was measured."""
        above = [lag for lag, value in enumerate(self.relative) if value >= THRESHOLD]
        first = above[-1] + 1 if above else 0
        return first if first < len(self.relative) else None

    def largest_from(self, lag: int) -> float:
        """The largest influence at this lag and all later ones."""
        return max(self.relative[lag:])


class Tally:
    """Sums up the distances of one output's predictions."""

    def __init__(self, spec: OutputSpec, lags: int) -> None:
        """`lags` is the longest."""
        self.spec = spec
        self._rows = np.zeros(lags + 1)
        self._sums: Doubles = np.zeros(lags + 1)
        """`[lags + 1, *entries]` from the first predictions on."""
        self._is_distribution: bool | None = None
        self._spread = _Spread()

    def add(self, lag: int, plain: Array, changed: Array) -> None:
        """Predictions `[rows, time, *shape]` from `lag` on, with and without the change.

        Raises `HorizonError` if one is not finite.
        """
        one, two = (self._numbers(lag, array) for array in (plain, changed))
        if self._is_distribution is None:
            self._is_distribution = self._sums_to_one(one)
            entries = one.shape[2:-1] if self._is_distribution else one.shape[2:]
            self._sums = np.zeros((len(self._rows), *entries))
        distance = np.abs(one - two)
        if self._is_distribution:
            distance = distance.sum(axis=-1) / 2
        lags = slice(lag, lag + one.shape[1])
        self._sums[lags] += distance.sum(axis=0)
        self._rows[lags] += len(one)
        self._spread.add(one)

    def influence(self) -> Influence:
        """What was found, once predictions for every lag were added."""
        means = (self._sums.T / self._rows).T
        if self.spec.kind is OutputKind.VALUES:
            # What never changes has no scale, and no distance either.
            spread = self._spread.deviation()
            means = np.divide(means, spread, out=np.zeros_like(means), where=spread > 0)
        means = means.reshape(len(means), -1).mean(axis=1)
        reference = 0 if means[0] > 0 else int(means.argmax())
        absolute = float(means[reference])
        relative = means / absolute if absolute else means
        return Influence(
            output=self.spec.name,
            distance=self._distance(),
            reference=reference,
            absolute=absolute,
            relative=tuple(relative.tolist()),
        )

    def _numbers(self, lag: int, array: Array) -> Doubles:
        numbers: Array = array.astype(np.float64)
        finite = np.isfinite(numbers).all(axis=(0, *range(2, numbers.ndim)))
        if not finite.all():
            raise HorizonError(
                f"output {self.spec.name!r} is not finite at lag {lag + int(finite.argmin())}"
            )
        if self.spec.kind is OutputKind.LOGITS:
            numbers = softmax(array.astype(np.float32, copy=False)).astype(np.float64)
        return numbers

    def _sums_to_one(self, numbers: Doubles) -> bool:
        if self.spec.kind is OutputKind.VALUES or not self.spec.shape:
            return False
        return bool(np.allclose(numbers.sum(axis=-1), 1, rtol=0, atol=_SUM))

    def _distance(self) -> str:
        if self._is_distribution:
            return "total variation"
        if self.spec.kind is OutputKind.PROBABILITIES:
            return "difference of the probabilities"
        return "difference over the output's standard deviation"


class _Spread:
    """The standard deviation of each entry of what was added."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Doubles = np.zeros(())
        self._squares: Doubles = np.zeros(())
        """Of the differences from the mean."""

    def add(self, numbers: Doubles) -> None:
        # Chan, Golub & LeVeque (1979): merges means, so that large numbers hide no small spread.
        count = numbers.shape[0] * numbers.shape[1]
        mean = numbers.mean(axis=(0, 1))
        squares = ((numbers - mean) ** 2).sum(axis=(0, 1))
        total = self._count + count
        apart = mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self._count * count / total)
        self._mean = self._mean + apart * (count / total)
        self._count = total

    def deviation(self) -> Doubles:
        deviation: Doubles = np.sqrt(self._squares / self._count)
        return deviation
