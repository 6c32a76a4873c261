"""The caller's examples, and the outputs that the caller expects for the examples."""

from typing import Any

import numpy as np

from elman_export.errors import ExportError, ProofFailed
from elman_export.proof.proof import Comparison
from elman_export.proof.stepmodel import Arrays
from elman_server.model.spec import InputKind, InputSpec


def fit(input: InputSpec, examples: Any, *, stepwise: bool = False) -> np.ndarray:
    """Converts examples to `[batch, time, *shape]` in the input's type.

    With `stepwise`, examples may be a single sequence `[time, *shape]`, and must be finite. Raises
    `ExportError` for examples that do not fit the input.
    """
    found = _numbers(examples)
    if stepwise and found.ndim == 1 + len(input.shape):
        found = found[None]
    if found.ndim != 2 + len(input.shape) or found.shape[2:] != input.shape:
        raise ExportError(
            f"examples have shape {list(found.shape)}; expected is "
            f"{['batch', 'time', *input.shape]}"
        )
    if input.kind is InputKind.FEATURES:
        if stepwise and not np.isfinite(found).all():
            raise ExportError("examples hold a value that is not finite")
    elif found.dtype.kind not in "iu" or not ((found >= 0) & (found < input.size)).all():
        raise ExportError(f"examples must be ids from 0 to {input.size - 1}")
    return found.astype(input.dtype)


def fit_expected(expected: Arrays, answer: Arrays) -> Arrays:
    """Converts expected outputs to the shapes of `answer`, the original's outputs for the examples.

    Raises `ExportError` for an unknown output or a wrong number of values.
    """
    outputs = {}
    for name, value in expected.items():
        if name not in answer:
            raise ExportError(
                f"expected names output {name!r}; the step model's are "
                f"{', '.join(map(repr, answer))}"
            )
        shape = answer[name].shape
        if value.size != answer[name].size:
            raise ExportError(
                f"expected output {name!r} has shape {list(value.shape)}; for the examples it "
                f"is {list(shape)}"
            )
        outputs[name] = value.reshape(shape)
    return outputs


def compare(answer: Arrays, expected: Arrays, tolerance: float) -> list[Comparison]:
    """Compares the original's outputs with the expected outputs. Raises `ProofFailed` if the
    difference is too large."""
    comparisons = []
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value.astype(float)).max(initial=0)))
        maximum = float(np.abs(answer[name].astype(float) - value).max(initial=0))
        if not maximum <= tolerance * scale:
            raise ProofFailed(
                f"output {name!r} differs by {maximum:.3g} from what was expected for the "
                f"examples; allowed are {tolerance * scale:.3g}: are constants, overlap and "
                "the states' pairs right?"
            )
        comparisons.append(
            Comparison(
                output=name,
                input="examples",
                way="what was expected",
                maximum=maximum,
                exact=True,
            )
        )
    return comparisons


def _numbers(examples: Any) -> np.ndarray:
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
