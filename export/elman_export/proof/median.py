"""Comparison of a quantized step model's typical values with the original's."""

from collections.abc import Sequence

import numpy as np

from elman_export.errors import ProofFailed
from elman_export.proof.proof import Case
from elman_export.proof.stepmodel import StepModel

_ALLOWED = 0.5
"""Allowed median difference between a quantized step model and the original, times the median size
of the original's values. The limit only detects a broken model: with noise as input, a single value
of a recurrent network may be anywhere. The cost of rounding is measured by the task's own metrics,
such as accuracy or perplexity."""


def check_median(step: StepModel, cases: Sequence[Case], original: str) -> None:
    """Raises `ProofFailed` for an output with a median difference above the limit."""
    differences: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, list[np.ndarray]] = {}
    for case in cases:
        each = case.sequences
        rows, time = each.elements.shape[:2]
        found = step.run(each.elements, [[1] * time] * rows, each.contexts).outputs
        for name, value in case.expected.items():
            apart = _unmasked(np.abs(found[name].astype(float) - value))
            differences.setdefault(name, []).append(apart)
            sizes.setdefault(name, []).append(_unmasked(np.abs(value.astype(float))))
    for name, all_apart in differences.items():
        median = float(np.median(np.concatenate(all_apart)))
        allowed = _ALLOWED * float(np.median(np.concatenate(sizes[name])))
        if not median <= allowed:
            raise ProofFailed(
                f"output {name!r} of the quantized step model differs from the {original}'s by "
                f"{median:.3g} in the median; allowed are {allowed:.3g}"
            )


def _unmasked(values: np.ndarray) -> np.ndarray:
    flat: np.ndarray = np.ma.compressed(values)
    return flat
