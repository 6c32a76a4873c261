"""Export of any ONNX file as a step model."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elman_export import pipeline
from elman_export.errors import fitting
from elman_export.interface import Output
from elman_export.options import GraphInputs, Options
from elman_export.original import onnxfile, wholesequence
from elman_export.original.adoption import streaming
from elman_export.proof.proof import TOLERANCE
from elman_export.writer import Report
from elman_server.model.spec import InputSpec

_KINDS = (streaming, wholesequence)
"""The kinds of graphs. The first that applies is the graph's."""


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

    A graph with states among its inputs and outputs is adopted: the graph's computation stays
    unchanged. Such a graph has inputs for states and outputs for the states' next values. `states`
    holds the pairs, `{input: output}`. Pairs with unambiguous names or shapes can be left out. The
    graph is run to find the batch and time axes. Axes of length 1 are left out of an element's
    shape. A graph of whole sequences with RNN, LSTM or GRU operators is changed to a graph of
    steps.

    `constants` gives inputs with a fixed value, by name. `contexts` names inputs given once per
    session. The single remaining input takes the elements. `input` describes the elements where the
    graph does not (names of characters, an open shape). `outputs` selects outputs and gives their
    meaning; by default, all outputs with a value for each element, except states, are `values`.

    With `overlap`, each element of a graph with states starts with the last `overlap` values of the
    previous element, along the last axis. The first element starts with zeros. Clients push only
    the new values.

    `examples` are sequences `[batch, time, *shape]`, compared in addition to seeded random
    sequences. For a graph with states, `examples` may be a single sequence `[time, *shape]`, and
    `expected` gives the required outputs for the examples, `[batch, time, *shape]` by name.
    `tolerance` bounds the difference from the original graph in ONNX Runtime. If a graph with
    states takes several elements at once, `tolerance` also bounds the graph's difference between
    whole sequences and single elements. `quantized` writes 8-bit weights.

    The file may be hostile. Where this matters, run the function in `elman_export.sandbox`, as the
    command line does.

    Raises `ExportError` for an unreadable file, for wrong names and for an ambiguous graph;
    `UnsupportedGraph` with the node for a graph that can't become a step model; `ProofFailed` for a
    step model that is not the same network. On an error, nothing is written.
    """
    return export_file(
        path,
        output,
        GraphInputs(
            input=input,
            states=states or {},
            constants=constants or {},
            contexts=contexts,
            overlap=overlap,
        ),
        Options(
            outputs=outputs,
            description=description,
            examples=examples,
            expected=expected or {},
            tolerance=tolerance,
            quantized=quantized,
            seed=seed,
        ),
    )


def export_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    inputs: GraphInputs,
    options: Options,
) -> Report:
    """Writes the ONNX file `path` as a step model to `output`; see `export_graph`."""
    model = onnxfile.load(path)
    kind = next(kind for kind in _KINDS if kind.applies(model, inputs))
    with fitting():
        original = kind.original(model, inputs, options)
    return pipeline.export(original, output, options)
