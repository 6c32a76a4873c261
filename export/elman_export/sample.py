"""Random elements for a described input: what modules are run on where no data is given."""

import numpy as np

from elman_server.spec import InputKind, InputSpec


def random_elements(
    input: InputSpec, batch: int, time: int, rng: np.random.Generator
) -> np.ndarray:
    """`[batch, time, *shape]` of the input's type: even ids, or standard normal features."""
    if input.kind is InputKind.FEATURES:
        return rng.standard_normal((batch, time, *input.shape)).astype(input.dtype)
    return rng.integers(0, input.size, (batch, time)).astype(input.dtype)
