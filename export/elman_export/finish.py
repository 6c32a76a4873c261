"""The end of every export: what was proved is quantized, if that is wanted, and kept."""

import os
from collections.abc import Callable, Sequence

import onnx

from elman_export.keep import Report, keep
from elman_export.proof import Proof, Sequences, prove
from elman_export.stepmodel import Arrays, StepModel
from elman_server.spec import ModelSpec

QUANTIZED_TOLERANCE = 3.0
"""Allowed difference of a quantized step model from the original, times the scale of its output
(its median size). It only catches a broken one: what it costs is told by figures of the
task, accuracy or perplexity."""


def finish(
    model: onnx.ModelProto,
    spec: ModelSpec,
    proof: Proof,
    output: str | os.PathLike[str],
    *,
    whole: Callable[[Sequences], Arrays],
    sequences: Sequence[Sequences],
    original: str,
    initial: onnx.ModelProto | None = None,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Keeps a proved step model; or, `quantized`, one of 8-bit weights in its place.

    The quantized one is proved anew against `whole` on `sequences`, to `QUANTIZED_TOLERANCE`, and
    must be equal to the last bit in every way that the proved one was.
    """
    if quantized:
        from elman_export.quantization import quantize

        model, spec = quantize(model, spec)
        network = None if initial is None else initial.SerializeToString()
        proof = prove(
            whole,
            StepModel(model.SerializeToString(), spec, network),
            sequences,
            seed=seed,
            tolerance=QUANTIZED_TOLERANCE,
            exact=proof.exact,
            original=original,
        )
    return keep(model, spec, proof, output, initial=initial)
