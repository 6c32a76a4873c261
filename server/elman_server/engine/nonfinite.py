"""Predictions that hold NaN or infinity: a step's, counted."""

from math import inf

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.delivery import Outputs
from elman_server.engine.table import Numbers


def count_nonfinite(outputs: Outputs, counts: Numbers) -> int:
    """The predictions of a step in which some number is NaN or infinity.

    `outputs`: `[rows, chunk, *shape]` by name. Row `i` holds `counts[i]` predictions; the rest of
    it is padding. Minus infinity is lawful, as the logit of a symbol that can't be or the logarithm
    of 0, and does not count.
    """
    wrong = [
        ~(array < inf).reshape(*array.shape[:2], -1).all(axis=-1)
        for array in outputs.values()
        if array.dtype.kind == "f" and not _largest(array) < inf
    ]
    if not wrong:
        return 0
    chunk = wrong[0].shape[1]
    own = np.arange(chunk) < counts[:, None]
    return int(np.count_nonzero(np.logical_or.reduce(wrong) & own))


def _largest(array: NDArray[np.floating]) -> float:
    """The largest number, or NaN if there is any."""
    # Takes the first NaN for the largest, without Python code of numpy's in between: 0.5 µs of a
    # small array, less than half of what `max` takes.
    return float(array.item(array.argmax())) if array.size else -inf
