"""Sequences for a proof: random sequences, and the caller's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elman_export.proof.examples import fit
from elman_export.proof.proof import PADDED, Sequences
from elman_export.proof.sample import padded_elements, random_contexts, random_elements
from elman_server.model.spec import ContextSpec, InputSpec

_SIZES = ((13, 20), (2, 1), (1, 7))
"""(batch, time) of the random sequences."""
_LARGE = ((2, 300), (40, 3))
"""(batch, time) of more random sequences, for originals that take whole sequences or count the
elements. Such originals may behave differently beyond some length or number of rows."""


def trials(
    input: InputSpec,
    contexts: Sequence[ContextSpec],
    *,
    examples: Any = None,
    seed: int,
    stepwise: bool = False,
) -> list[Sequences]:
    """Returns seeded random sequences, padded sequences and `examples [batch, time, *shape]`.

    All sequences get random contexts. With `stepwise`, the original runs a single sequence at a
    time: no large sequences are made. Raises `ExportError` for examples that do not fit the input.
    """
    rng = np.random.default_rng(seed)
    sizes = _SIZES if stepwise else (*_SIZES, *_LARGE)
    sourced = [("random", random_elements(input, batch, time, rng)) for batch, time in sizes]
    sourced.append((PADDED, padded_elements(input, rng)))
    if examples is not None:
        sourced.append(("examples", fit(input, examples, stepwise=stepwise)))
    return [
        Sequences(
            elements=elements,
            source=source,
            contexts=random_contexts(contexts, len(elements), rng),
        )
        for source, elements in sourced
    ]
