"""An ONNX file of any kind to a step model: adopted where it has states, else by surgery."""

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
    """Writes the ONNX file `path` as a step model to `output`, after proving that it is the same.

    A graph with states among its inputs and outputs is adopted (`original/adoption`), one
    of whole sequences is operated on (`elman_export.surgery.whole`); the arguments are theirs.
    `quantized`: with 8-bit weights.

    The file may be hostile: run this in `elman_export.sandbox` where that matters, as the command
    line does. Raises `ExportError`; nothing is written then.
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
