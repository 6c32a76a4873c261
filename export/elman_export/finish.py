"""End of every export: quantization if requested, then writing."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from elman_export.errors import ProofFailed
from elman_export.keep import Report, keep
from elman_export.proof.proof import Case, Proof, prove
from elman_export.proof.stepmodel import StepModel
from elman_server.model.spec import ModelSpec

_TYPICAL = 0.5
"""Allowed median difference between a quantized step model and the original, times the median size
of the original's values. The limit only detects a broken model: with noise as input, a single value
of a recurrent network may be anywhere. The cost of rounding is measured by the task's own metrics,
such as accuracy or perplexity."""


def finish(
    model: onnx.ModelProto,
    spec: ModelSpec,
    proof: Proof,
    output: str | os.PathLike[str],
    *,
    cases: Sequence[Case],
    original: str,
    initial: onnx.ModelProto | None = None,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Writes a proved step model or, with `quantized`, a version with 8-bit weights.

    The quantized model is compared again on the same `cases`. If the proved model was equal to the
    last bit in all ways, this is also required of the quantized model. Raises `ProofFailed`
    otherwise, or for values far off.
    """
    notes: list[str] = []
    if quantized:
        from elman_export.quantization import quantize

        model, spec = quantize(model, spec, tell=notes.append)
        step = StepModel.of(model, spec, initial)
        _check_typical(step, cases, original)
        proof = prove(
            step,
            cases,
            seed=seed,
            tolerance=None,
            exact=proof.exact,
            original=original,
        )
    return replace(keep(model, spec, proof, output, initial=initial), notes=tuple(notes))


def _check_typical(step: StepModel, cases: Sequence[Case], original: str) -> None:
    differences: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, list[np.ndarray]] = {}
    for case in cases:
        each = case.sequences
        rows, time = each.elements.shape[:2]
        found = step.run(each.elements, [[1] * time] * rows, each.contexts).outputs
        for name, value in case.expected.items():
            apart = _plain(np.abs(found[name].astype(float) - value))
            differences.setdefault(name, []).append(apart)
            sizes.setdefault(name, []).append(_plain(np.abs(value.astype(float))))
    for name, all_apart in differences.items():
        typical = float(np.median(np.concatenate(all_apart)))
        allowed = _TYPICAL * float(np.median(np.concatenate(sizes[name])))
        if not typical <= allowed:
            raise ProofFailed(
                f"output {name!r} of the quantized step model differs from the {original}'s by "
                f"{typical:.3g} in the median; allowed are {allowed:.3g}"
            )


def _plain(values: np.ndarray) -> np.ndarray:
    kept: np.ndarray = np.ma.compressed(values)
    return kept
