"""What a proof runs on where nothing else is said: random sequences, and the caller's examples."""

from collections.abc import Sequence

import numpy as np

from elman_export.errors import ExportError
from elman_export.proof import Sequences
from elman_export.sample import random_contexts, random_elements
from elman_server.spec import ContextSpec, InputSpec

_SIZES = ((13, 20), (2, 1), (1, 7))
"""(batch, time) of the random sequences."""
_LARGE = ((2, 300), (40, 3))
"""The same for graphs of others, which may do otherwise beyond some length or number of rows."""


def trials(
    input: InputSpec,
    contexts: Sequence[ContextSpec],
    *,
    examples: np.ndarray | None = None,
    seed: int,
    large: bool = False,
) -> list[Sequences]:
    """Seeded random sequences, and `examples [batch, time, *shape]` behind them.

    Contexts are random for both. Raises `ExportError` for examples of another shape.
    """
    rng = np.random.default_rng(seed)
    sizes = (*_SIZES, *_LARGE) if large else _SIZES
    given = [("random", random_elements(input, batch, time, rng)) for batch, time in sizes]
    if examples is not None:
        if not examples.size or examples.dtype.kind not in "buif":
            raise ExportError(
                f"examples have shape {list(examples.shape)} and type {examples.dtype}; expected "
                "are numbers, and at least one sequence of one element"
            )
        if examples.ndim != 2 + len(input.shape) or examples.shape[2:] != input.shape:
            raise ExportError(
                f"examples have shape {list(examples.shape)}; expected is "
                f"{['batch', 'time', *input.shape]}"
            )
        given.append(("examples", examples.astype(input.dtype)))
    return [
        Sequences(
            elements=elements,
            source=source,
            contexts=random_contexts(contexts, len(elements), rng),
        )
        for source, elements in given
    ]
