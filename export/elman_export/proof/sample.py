"""Random elements for an input, used to run modules without given data."""

from collections.abc import Mapping, Sequence

import numpy as np

from elman_server.model.spec import ContextSpec, InputKind, InputSpec

_PADDED_ROWS, _PADDED_TIME = 4, 12


def random_elements(
    input: InputSpec, batch: int, time: int, rng: np.random.Generator
) -> np.ndarray:
    """Random `[batch, time, *shape]` in the input's type: uniform ids, or standard normal
    features."""
    if input.kind is InputKind.FEATURES:
        return rng.standard_normal((batch, time, *input.shape)).astype(input.dtype)
    return rng.integers(0, input.size, (batch, time)).astype(input.dtype)


def padded_elements(input: InputSpec, rng: np.random.Generator) -> np.ndarray:
    """`[batch, time, *shape]`: random elements, and sequences with padding behind, in front, in
    between and everywhere. Padding is a frame of zeros, or the first or last id.

    Random ids of a large vocabulary hardly ever include padding ids. Random features never include
    zeros.
    """
    fills = (0,) if input.kind is InputKind.FEATURES else (0, input.size - 1)
    elements = random_elements(input, _PADDED_ROWS * len(fills) + 1, _PADDED_TIME, rng)
    for number, fill in enumerate(fills):
        behind, before, between, only = elements[number * _PADDED_ROWS :][:_PADDED_ROWS]
        behind[_PADDED_TIME // 2 :] = fill
        before[: _PADDED_TIME // 3] = fill
        between[::3] = fill
        only[:] = fill
    return elements


def random_contexts(
    contexts: Sequence[ContextSpec], batch: int, rng: np.random.Generator
) -> Mapping[str, np.ndarray]:
    """Random `[batch, *shape]` by name: standard normal values, or 0 and 1 for whole numbers."""
    return {
        each.name: (
            rng.standard_normal((batch, *each.shape))
            if np.issubdtype(each.dtype, np.floating)
            else rng.integers(0, 2, (batch, *each.shape))
        ).astype(each.dtype)
        for each in contexts
    }
