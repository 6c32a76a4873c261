"""Random elements for a described input: what modules are run on where no data is given."""

from collections.abc import Mapping, Sequence

import numpy as np

from elman_server.spec import ContextSpec, InputKind, InputSpec


def random_elements(
    input: InputSpec, batch: int, time: int, rng: np.random.Generator
) -> np.ndarray:
    """`[batch, time, *shape]` of the input's type: even ids, or standard normal features."""
    if input.kind is InputKind.FEATURES:
        return rng.standard_normal((batch, time, *input.shape)).astype(input.dtype)
    return rng.integers(0, input.size, (batch, time)).astype(input.dtype)


def random_contexts(
    contexts: Sequence[ContextSpec], batch: int, rng: np.random.Generator
) -> Mapping[str, np.ndarray]:
    """`[batch, *shape]` by name: standard normal values, or 0 and 1 for whole numbers."""
    return {
        each.name: (
            rng.standard_normal((batch, *each.shape))
            if np.issubdtype(each.dtype, np.floating)
            else rng.integers(0, 2, (batch, *each.shape))
        ).astype(each.dtype)
        for each in contexts
    }
