"""Export of any ONNX file as a step model: adoption for graphs with states, otherwise surgery."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elman_export.errors import ExportError
from elman_export.interface import Output
from elman_export.keep import Report
from elman_export.original import onnxfile
from elman_export.original.adoption.adopt import adopt, has_states
from elman_export.proof.proof import TOLERANCE
from elman_export.surgery.whole import lift
from elman_server.model.spec import InputSpec


def export_graph(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    input: InputSpec | None = None,
    outputs: Sequence[Output] = (),
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    contexts: Sequence[str] = (),
    overlap: int = 0,
    examples: np.ndarray | None = None,
    expected: Mapping[str, np.ndarray] | None = None,
    description: str = "",
    tolerance: float = TOLERANCE,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Writes the ONNX file `path` as a step model to `output`, after a proof of equality.

    A graph with states among its inputs and outputs is adopted (`original/adoption`). A graph of
    whole sequences is changed by `elman_export.surgery.whole`. Both document the arguments.
    `quantized` writes 8-bit weights.

    The file may be hostile. Where this matters, run the function in `elman_export.sandbox`, as the
    command line does. Raises `ExportError`; then nothing is written.
    """
    common: dict[str, Any] = {
        "input": input,
        "outputs": outputs,
        "constants": constants,
        "contexts": contexts,
        "examples": examples,
        "description": description,
        "tolerance": tolerance,
        "quantized": quantized,
        "seed": seed,
    }
    model = onnxfile.load(path)
    if states or has_states(model, constants=[*(constants or {})], contexts=contexts):
        return adopt(model, output, states=states, overlap=overlap, expected=expected, **common)
    for name, given in (("overlap", overlap), ("expected", expected)):
        if given:
            raise ExportError(f"{name} is for graphs with states; this one takes whole sequences")
    return lift(model, output, **common)
