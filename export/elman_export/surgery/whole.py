"""From a whole-sequence ONNX graph to a step model: the order of the work."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from elman_export.errors import ExportError, ProofFailed, fitting
from elman_export.finish import finish
from elman_export.interface import Output
from elman_export.keep import Report
from elman_export.proof.proof import TOLERANCE, answered, prove
from elman_export.proof.stepmodel import RuntimeFailed, StepModel
from elman_export.proof.trials import trials
from elman_export.surgery import heads, step
from elman_export.surgery.wholegraph import WholeGraph
from elman_server.model.spec import InputSpec


def lift(
    model: onnx.ModelProto,
    output: str | os.PathLike[str],
    *,
    input: InputSpec | None = None,
    outputs: Sequence[Output] = (),
    constants: Mapping[str, Any] | None = None,
    contexts: Sequence[str] = (),
    description: str = "",
    examples: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Writes a whole-sequence graph as a step model to `output`; changes `model`.

    The graph has RNN, LSTM or GRU operators and no states among its inputs. The states become
    inputs and outputs. Sizes written by the exporter become dynamic. A head on the last step
    answers at every step.

    `input` describes the elements where the graph does not (names of characters, an open shape).
    `outputs` lists the wanted outputs and their meanings; by default, all outputs with a value for
    each element are `values`. `constants` are inputs with fixed values, by name. `contexts` are
    inputs, `[batch, *shape]`, given once per session. The part of the graph from contexts to
    initial states becomes the initial-state network. `examples`, `[batch, time, *shape]`, are
    compared beside seeded random sequences. `quantized` means 8-bit weights.

    Raises `UnsupportedGraph` with the node that can't be part of a step, `ProofFailed` for a step
    model that differs from the graph, and `ExportError` for invalid names. After an error, no
    file is written.
    """
    with fitting():
        subject = WholeGraph.of(model, input, outputs, constants or {}, contexts)
    sequences = trials(subject.input, subject.contexts, examples=examples, seed=seed)
    cases = answered(sequences, lambda each: subject.original.answer(each, subject.outputs))
    failure: ExportError | None = None
    for build in (step.chunked, step.single):
        try:
            with fitting():
                made = build(subject, description)
            proof = prove(
                StepModel.of(made.model, made.spec, made.initial),
                cases,
                seed=seed,
                tolerance=tolerance,
                exact=False,
                original="graph",
            )
        except (heads.HeadError, ProofFailed, RuntimeFailed) as error:
            failure = failure or error
            continue
        return finish(
            made.model,
            made.spec,
            proof,
            output,
            cases=cases,
            original="graph",
            initial=made.initial,
            quantized=quantized,
            seed=seed,
        )
    assert failure is not None
    raise failure
