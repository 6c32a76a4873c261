"""From a whole-sequence ONNX graph to a step model: the order in which it is done."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from elman_export import onnxfile
from elman_export.errors import ExportError, ProofFailed, misfit
from elman_export.finish import finish
from elman_export.interface import Output
from elman_export.keep import Report
from elman_export.proof import TOLERANCE, Proof, Sequences, prove
from elman_export.stepmodel import RuntimeFailed, StepModel
from elman_export.surgery import heads, step
from elman_export.surgery.wholegraph import WholeGraph
from elman_export.trials import trials
from elman_server.spec import InputSpec


def lift(
    path: str | os.PathLike[str],
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
    """Writes the whole-sequence graph of the ONNX file `path` as a step model to `output`.

    The graph has RNN, LSTM or GRU operators and no states among its inputs. Their states become
    inputs and outputs; sizes that its exporter wrote into it become dynamic; a head that reads the
    last step answers at every step. `input` says what the elements are where the graph does not
    (names of characters, a shape that is left open); `outputs` which outputs are wanted and what
    they mean; without it, all that come for each element are `values`. `constants` are inputs that
    are the same always, by name; `contexts` are inputs, `[batch, *shape]`, that a session is given
    once: where first states are computed from them, that part of the graph becomes the
    initial-state network. `examples`, `[batch, time, *shape]`, are compared beside seeded
    random sequences. `quantized`: with 8-bit weights.

    Raises `UnsupportedGraph` with the node that can't be part of a step, `ProofFailed` for a step
    model that is not the same network, and `ExportError` for a file that can't be read or names
    that don't fit. Nothing is written then.
    """
    try:
        subject = WholeGraph.of(
            onnxfile.load(Path(path)), input, outputs, constants or {}, contexts
        )
    except ValidationError as error:
        raise ExportError(misfit(error)) from None
    sequences = trials(subject.input, subject.contexts, examples=examples, seed=seed, large=True)
    failure: ExportError | None = None
    for build in (step.chunked, step.single):
        try:
            made = build(subject, description)
        except ValidationError as error:
            raise ExportError(misfit(error)) from None
        except (heads.HeadError, RuntimeFailed) as error:
            failure = failure or error
            continue
        try:
            proof = _prove(subject, made, sequences, seed=seed, tolerance=tolerance)
        except (ProofFailed, RuntimeFailed) as error:
            failure = failure or error
        else:
            return finish(
                made.model,
                made.spec,
                proof,
                output,
                whole=lambda each: subject.original.answer(each, subject.outputs),
                sequences=sequences,
                original="graph",
                initial=made.initial,
                quantized=quantized,
                seed=seed,
            )
    assert failure is not None
    raise failure


def _prove(
    subject: WholeGraph,
    made: step.Step,
    sequences: Sequence[Sequences],
    *,
    seed: int,
    tolerance: float,
) -> Proof:
    return prove(
        lambda each: subject.original.answer(each, subject.outputs),
        StepModel(
            made.model.SerializeToString(),
            made.spec,
            None if made.initial is None else made.initial.SerializeToString(),
        ),
        sequences,
        seed=seed,
        tolerance=tolerance,
        exact=False,
        original="graph",
    )
