"""From a ready-made streaming ONNX graph to a step model: the order in which it is done."""

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
"""Operators that round by all the values of one run, so that steps must not share one."""

_LOOSE = 0.25
"""How far such a model's whole sequences may be from its steps, beside the largest value."""


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
    """Writes a streaming graph, an ONNX file or its model, as a step model to `output`.

    The graph has states among its inputs and their next values among its outputs. `states` are such
    pairs, `{input: output}`; those whose names or shapes leave no doubt need not be given.
    `constants` are inputs that are the same always, by name; `contexts` names inputs that a session
    is given once. The one input that is left takes the elements. `input` says what they are where
    the graph does not (names of characters, a shape that is left open), and `outputs` which outputs
    are wanted and what they mean; without it, all that are no states are `values`. Where rows and
    steps are is found by running the graph. Axes of length 1 are left out of an element's shape.

    With `overlap`, each of the graph's elements begins with the last `overlap` values of the one
    before it, along the last axis, and with zeros at first: clients push what is new.

    `examples` are sequences `[batch, time, *shape]`, or one, `[time, *shape]`, compared beside
    seeded random ones; `expected` says what outputs must be for them, `[batch, time, *shape]`, by
    name. `tolerance` bounds the difference from the graph itself, run alone in ONNX Runtime, one
    element after another, and as a whole where it takes several at once. `quantized`: with 8-bit
    weights.

    Raises `ExportError` for a file that can't be read, for names that don't fit and where something
    is not certain; `UnsupportedGraph` for a graph that can't become a step model; `ProofFailed` for
    a step model that is not the same network. Nothing is written then.
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
    # The original is given one sequence at a time, and perhaps all its beginnings.
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
    """The element as clients push it, and the graph's layout."""
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
    """What the graph itself says, one element after another.

    Raises `ProofFailed` if it says something else to the sequence as a whole: then the states are
    not handed on as they are inside.
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
            continue  # the proof itself says so
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
