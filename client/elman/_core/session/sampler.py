"""Random choice among weighted alternatives. Independent of models and streams."""

from typing import Any

import numpy as np

from elman.errors import InvalidRequest, ServerError


class Sampler:
    """Draws among the `top_k` largest probabilities p with weights p^(1 / temperature).

    The weights equal softmax(logits / temperature) where p = softmax(logits). Temperature 0 takes
    the largest probability, and the first of equals. Equal seeds draw equally from equal
    probabilities; without a seed every sampler draws differently. NaN probabilities raise an error.
    """

    def __init__(self, temperature: float, top_k: int | None, seed: int | None) -> None:
        _check_temperature(temperature)
        if top_k is not None:
            check_integer("top_k", top_k, 1, ", or None for all")
        if seed is not None:
            check_integer("seed", seed, 0, ", or None for any")
        self._temperature = temperature
        self._top_k = top_k
        self._random = np.random.default_rng(seed)

    def draw(self, probabilities: np.ndarray) -> int:
        """Returns an index into `probabilities`, shape [n]; the sum may differ from 1.

        Raises `ServerError` if a probability is NaN or infinite, or if none is above 0.
        """
        largest = probabilities.max()
        if not 0 < largest < np.inf:
            raise ServerError(
                f"the model gave no symbol a probability above 0: the largest is {largest}"
            )
        if self._temperature == 0 or self._top_k == 1:
            return int(np.argmax(probabilities))
        values = weights = np.asarray(probabilities, np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            exponents = np.log(weights / weights.max()) / self._temperature
        weights = np.exp(exponents)
        if self._top_k is not None and self._top_k < len(weights):
            # Rank the given probabilities: a high temperature can make different weights equal.
            weights[np.argsort(-values, kind="stable")[self._top_k :]] = 0
        cumulative = np.cumsum(weights)
        # Strictly below the total: the last index drawn has a weight above 0.
        target = self._random.random() * cumulative[-1]
        return int(np.searchsorted(cumulative, target, side="right"))


def check_integer(name: str, value: Any, least: int, otherwise: str = "") -> None:
    """Raises `InvalidRequest` unless `value` is an integer of at least `least`; a bool is not
    allowed."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        allowed = f"integers from {least} up{otherwise}"
        raise InvalidRequest(f"{name} is {value!r}; allowed are {allowed}")


def _check_temperature(value: Any) -> None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        raise InvalidRequest(f"temperature is {value!r}; allowed are finite numbers from 0 up")
