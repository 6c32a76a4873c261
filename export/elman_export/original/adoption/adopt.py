"""Adoption of a streaming ONNX graph as a step model: all parts in order."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph, fitting
from elman_export.finish import finish
from elman_export.interface import Output
from elman_export.keep import Report
from elman_export.original import onnxfile
from elman_export.original.adoption import element, layout, roles
from elman_export.original.adoption.expectation import Expectation
from elman_export.original.adoption.layout import Layout
from elman_export.original.adoption.original import Original
from elman_export.original.adoption.port import open_zeros
from elman_export.original.adoption.roles import Roles, has_states
from elman_export.original.adoption.wrap import of_stream, wrap
from elman_export.proof.proof import TOLERANCE, Sequences, answered, prove
from elman_export.proof.stepmodel import Arrays, StepModel
from elman_export.proof.trials import trials
from elman_export.surgery import onnxnodes
from elman_server.model.spec import InputSpec, OutputKind

__all__ = ["adopt", "has_states"]

_BY_RUN = frozenset(["DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"])
"""Operators that round by all values of one run. Steps must not share a run."""

_LOOSE = 0.25
"""Allowed difference between whole sequences and single steps for a graph with such operators,
times the largest value."""


def adopt(
    graph: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str],
    *,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    contexts: Sequence[str] = (),
    input: InputSpec | None = None,
    outputs: Sequence[Output] = (),
    overlap: int = 0,
    examples: np.ndarray | None = None,
    expected: Mapping[str, np.ndarray] | None = None,
    description: str = "",
    tolerance: float = TOLERANCE,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Writes a streaming graph (an ONNX file or a loaded model) as a step model to `output`.

    A streaming graph has inputs for states and outputs for the states' next values. `states` holds
    the pairs, `{input: output}`. Pairs with unambiguous names or shapes can be left out.
    `constants` gives inputs with a fixed value, by name. `contexts` names inputs given once per
    session. The single remaining input takes the elements. `input` describes the elements where the
    graph does not (names of characters, an open shape). `outputs` selects outputs and gives their
    meaning; by default, all outputs except the states are `values`. The graph is run to find the
    batch and time axes. Axes of length 1 are left out of an element's shape.

    With `overlap`, each element of the graph starts with the last `overlap` values of the previous
    element, along the last axis. The first element starts with zeros. Clients push only the new
    values.

    `examples` are sequences `[batch, time, *shape]`, or a single sequence `[time, *shape]`,
    compared in addition to seeded random sequences. `expected` gives the required outputs for the
    examples, `[batch, time, *shape]` by name. `tolerance` bounds the difference from the original
    graph, run alone in ONNX Runtime, element by element. If the graph takes several elements at
    once, `tolerance` also bounds the graph's difference between whole sequences and single
    elements. `quantized` writes 8-bit weights.

    Raises `ExportError` for an unreadable file, for wrong names and for an ambiguous graph;
    `UnsupportedGraph` for a graph that can't become a step model; `ProofFailed` for a step model
    that is not the same network. On an error, nothing is written.
    """
    model = graph if isinstance(graph, onnx.ModelProto) else onnxfile.load(graph)
    open_zeros([*model.graph.input, *model.graph.output])
    if overlap < 0:
        raise ExportError(f"overlap is {overlap}; it is a number of values, 0 or more")
    found = roles.assign(
        model,
        states=states or {},
        constants=constants or {},
        contexts=contexts,
        outputs=[each.name for each in outputs],
    )
    taken, arranged = _arranged(model, found, input, outputs, overlap, tolerance)
    with fitting():
        step, spec = wrap(
            model,
            found,
            arranged,
            input=taken,
            overlap=overlap,
            meanings={each.name: each for each in outputs},
            description=description,
        )
    expectation = Expectation.of(spec, examples, expected or {})
    original = Original(model, found, arranged, overlap=overlap)
    # Small trials: the original runs one sequence at a time, and perhaps on all prefixes.
    sequences = trials(
        spec.input, spec.contexts, examples=expectation.examples, seed=seed, large=False
    )
    loose = _rounds_by_run(model)
    cases = answered(sequences, lambda each: _reference(original, each, arranged, tolerance, loose))
    proof = prove(
        StepModel.of(step, spec),
        cases,
        seed=seed,
        tolerance=tolerance,
        exact=False,
        original="graph",
    )
    if expectation.outputs:
        compared = expectation.compare(cases[-1].expected, tolerance)
        proof = replace(proof, comparisons=(*proof.comparisons, *compared))
    return finish(
        step,
        spec,
        proof,
        output,
        cases=cases,
        original="graph",
        quantized=quantized,
        seed=seed,
    )


def _arranged(
    model: onnx.ModelProto,
    found: Roles,
    input: InputSpec | None,
    outputs: Sequence[Output],
    overlap: int,
    tolerance: float,
) -> tuple[InputSpec, Layout]:
    """Returns the element as clients push it, and the graph's layout."""
    described = element.describe(model, found.element, input)
    shape = None if input is None else input.shape
    if overlap and found.lengths is not None:
        raise UnsupportedGraph("elements that overlap can't have lengths as well")
    if overlap and shape is not None:
        if not shape:
            raise ExportError(f"overlap is {overlap}, but an element of shape [] has no axis")
        shape = (*shape[:-1], shape[-1] + overlap)
    whole = frozenset(
        each.name for each in outputs if each.labels or each.kind is OutputKind.LOGITS
    )
    arranged = layout.find(
        model,
        found,
        described,
        shape=shape,
        whole=whole,
        one_step=_rounds_by_run(model),
        tolerance=tolerance,
    )
    size = arranged.element.shape[-1:]
    if overlap and (not size or overlap >= size[0]):
        raise ExportError(
            f"overlap is {overlap}; the graph's elements have shape {list(arranged.element.shape)}"
        )
    if overlap and arranged.element.time is not None and 2 * overlap > size[0]:
        raise ExportError(
            f"overlap is {overlap}, more than the {size[0] - overlap} values that are new"
        )
    return of_stream(described, arranged.element.shape, overlap), arranged


def _rounds_by_run(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _BY_RUN for node in onnxnodes.nodes(model))


def _reference(
    original: Original, sequences: Sequences, arranged: Layout, tolerance: float, loose: bool
) -> Arrays:
    """Returns the original graph's outputs, computed element by element.

    Raises `ProofFailed` if the graph's outputs for whole sequences differ: then the paired outputs
    do not carry the states used inside of the graph.
    """
    steps = original.stepwise(sequences)
    if arranged.element.time is not None:
        whole: Arrays | None = original.whole(sequences)
    elif arranged.many_steps:
        whole = original.prefixes(sequences)
    else:
        whole = None
    for name, values in (whole or {}).items():
        if not np.isfinite(values).all():
            continue  # the proof reports non-finite values
        difference = float(np.abs(values.astype(float) - steps[name]).max(initial=0))
        scale = max(1.0, float(np.abs(values.astype(float)).max(initial=0)))
        allowed = (_LOOSE if loose else tolerance) * scale
        if not difference <= allowed:
            raise ProofFailed(
                f"output {name!r} of the graph itself differs by {difference:.3g} between whole "
                f"sequences and one element after another; allowed are {allowed:.3g}: are the "
                f"states' pairs right ({original.pairs})? Or does it mix time steps outside of "
                "its states?"
            )
    return steps
