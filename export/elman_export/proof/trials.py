"""Sequences for a proof: random sequences, and the caller's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elman_export.errors import ExportError
from elman_export.proof.proof import PADDED, Sequences
from elman_export.proof.sample import padded_elements, random_contexts, random_elements
from elman_server.model.spec import ContextSpec, InputKind, InputSpec

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
    large: bool = True,
) -> list[Sequences]:
    """Returns seeded random sequences, padded sequences and `examples [batch, time, *shape]`.

    All sequences get random contexts. Raises `ExportError` for examples that do not fit the input.
    """
    rng = np.random.default_rng(seed)
    sizes = (*_SIZES, *_LARGE) if large else _SIZES
    given = [("random", random_elements(input, batch, time, rng)) for batch, time in sizes]
    given.append((PADDED, padded_elements(input, rng)))
    if examples is not None:
        given.append(("examples", _fitting(input, numbers(examples))))
    return [
        Sequences(
            elements=elements,
            source=source,
            contexts=random_contexts(contexts, len(elements), rng),
        )
        for source, elements in given
    ]


def numbers(examples: Any) -> np.ndarray:
    """Converts examples to a numpy array. Raises `ExportError` if the examples are not numbers."""
    try:
        made = np.asarray(examples)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor with gradients
        raise ExportError(f"examples are no array: {' '.join(str(error).split())}") from None
    if not made.size or made.dtype.kind not in "buif":
        raise ExportError(
            f"examples have shape {list(made.shape)} and type {made.dtype}; expected "
            "are numbers, and at least one sequence of one element"
        )
    return made


def _fitting(input: InputSpec, examples: np.ndarray) -> np.ndarray:
    """Converts the examples to the input's type. Raises `ExportError` for invalid examples."""
    if examples.ndim != 2 + len(input.shape) or examples.shape[2:] != input.shape:
        raise ExportError(
            f"examples have shape {list(examples.shape)}; expected is "
            f"{['batch', 'time', *input.shape]}"
        )
    if input.kind is not InputKind.FEATURES and (
        examples.dtype.kind not in "iu" or not ((examples >= 0) & (examples < input.size)).all()
    ):
        raise ExportError(f"examples must be ids from 0 to {input.size - 1}")
    return examples.astype(input.dtype)
