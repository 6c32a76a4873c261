"""Random elements for a model, in the format of a push."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman import InputKind, Model
from elman.v1 import inference_pb2 as pb

_POOL = 1 << 16
"""Number of elements generated once and pushed repeatedly."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Pool of random elements: characters, ids or standard normal features."""

    _pool: str | bytes
    _width: int
    """Pool items per element: characters or bytes."""
    _count: int

    @staticmethod
    def of(model: Model, seed: int) -> "Elements":
        rng, input = np.random.default_rng(seed), model.input
        if input.kind is InputKind.TEXT:
            chosen = rng.integers(0, len(input.vocabulary), _POOL)
            return Elements("".join(input.vocabulary[each] for each in chosen), 1, _POOL)
        assert input.dtype is not None
        width = prod(input.shape) * input.dtype.itemsize
        count = max(1024, min(_POOL, (64 << 20) // width))
        numbers: NDArray[Any] = (
            rng.integers(0, input.size, count)
            if input.kind is InputKind.TOKENS
            else rng.standard_normal((count, *input.shape))
        )
        return Elements(numbers.astype(input.dtype.newbyteorder("<")).tobytes(), width, count)

    def put(self, push: pb.Push, start: int, count: int) -> None:
        """Puts `count` elements into the push, starting at `start` modulo the pool's size."""
        payload = self._taken(start % self._count, count)
        if isinstance(payload, str):
            push.text = payload
        else:
            push.raw = payload

    def _taken(self, start: int, count: int) -> str | bytes:
        pool, width = self._pool, self._width
        if start + count <= self._count:
            return pool[start * width : (start + count) * width]
        return (pool * (1 + (start + count) // self._count))[
            start * width : (start + count) * width
        ]
