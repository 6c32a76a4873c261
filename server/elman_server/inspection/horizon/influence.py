"""Influence of an element on later predictions of an output, by lag.

The *influence* at lag n compares two predictions n elements after an element: the prediction with
the element and the prediction with a replacement. The influence is the mean distance over many
places:

- logits, and probabilities with sum 1: the total variation distance of the two distributions, half
  the sum of |p - q|;
- other probabilities: |p - q|, the total variation distance of a yes or no;
- values: |y - y'| over the standard deviation of the entry of the output in the sample.

For an output with several entries or distributions, the influence is the mean over all. Every
influence is divided by the influence at lag 0, on the element's own prediction. If the influence at
lag 0 is zero, the largest influence is the divisor.
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
"""Relative influence below which an element counts as forgotten: a hundredth of its influence on
its own prediction."""

_SUM = 1e-3
"""Allowed difference between 1 and the sum of a distribution."""


class HorizonError(Exception):
    """A horizon can't be measured. The message is a single line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    output: str
    distance: str
    """Kind of distance between two predictions, for people."""
    reference: int
    """The lag with relative influence 1: lag 0 or, if the influence at lag 0 is zero, the lag with
    the largest influence."""
    absolute: float
    """The measured influence at the reference lag; 0 without influence at any lag."""
    relative: tuple[float, ...]
    """`[lags + 1]`: the influence at each lag, divided by the influence at the reference lag."""

    @property
    def horizon(self) -> int | None:
        """The lag from which on the influence stays under `THRESHOLD`; None if the influence at the
        longest measured lag is not under `THRESHOLD`."""
        above = [lag for lag, value in enumerate(self.relative) if value >= THRESHOLD]
        first = above[-1] + 1 if above else 0
        return first if first < len(self.relative) else None

    def largest_from(self, lag: int) -> float:
        """Returns the largest relative influence at `lag` and all later lags."""
        return max(self.relative[lag:])


class Tally:
    """Sums up distances between predictions of an output."""

    def __init__(self, spec: OutputSpec, lags: int) -> None:
        """`lags` is the longest lag."""
        self.spec = spec
        self._rows = np.zeros(lags + 1)
        self._sums: Doubles = np.zeros(lags + 1)
        """`[lags + 1, *entries]`, once predictions were added."""
        self._is_distribution: bool | None = None
        self._spread = _Spread()

    def add(self, lag: int, plain: Array, changed: Array) -> None:
        """Adds predictions `[rows, time, *shape]` from `lag` on, without and with the change.

        Raises `HorizonError` if a prediction is not finite.
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
        """Returns the influence. Predictions for every lag must have been added."""
        means = (self._sums.T / self._rows).T
        if self.spec.kind is OutputKind.VALUES:
            # A constant entry has deviation 0. Its influence is defined as 0.
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
    """Standard deviation of each entry over all added predictions."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Doubles = np.zeros(())
        self._squares: Doubles = np.zeros(())
        """Sum of the squared differences from the mean."""

    def add(self, numbers: Doubles) -> None:
        # Chan, Golub & LeVeque (1979): merging means keeps a small spread accurate.
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
