"""The kind of original that is a streaming ONNX graph: states among its inputs and outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from elman_export.candidate import Candidate
from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph
from elman_export.options import GraphInputs, Options
from elman_export.original.adoption import element, layout, roles
from elman_export.original.adoption.layout import Layout
from elman_export.original.adoption.port import open_zeros
from elman_export.original.adoption.reference import Reference
from elman_export.original.adoption.roles import Roles
from elman_export.original.adoption.wrap import of_stream, wrap
from elman_export.pipeline import Original
from elman_export.proof.proof import TOLERANCE, Sequences
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import onnxnodes
from elman_server.model.spec import ContextSpec, InputSpec, OutputKind

_BY_RUN = frozenset(["DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"])
"""Operators that round by all values of one run. Steps must not share a run."""

_LOOSE = 0.25
"""Allowed difference between whole sequences and single steps for a graph with such operators,
times the largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingGraph(Original):
    """A graph with inputs for states and outputs for the states' next values.

    The reference is the graph itself in ONNX Runtime, alone, element by element.
    """

    noun: ClassVar[str] = "graph"
    exact: ClassVar[bool] = False
    stepwise: ClassVar[bool] = True

    input: InputSpec
    contexts: Sequence[ContextSpec]
    candidate: Candidate
    reference: Reference
    whole_tolerance: float
    """Allowed difference of the graph between whole sequences and single elements, times the
    largest value."""

    def candidates(self) -> Sequence[Callable[[], Candidate]]:
        return [lambda: self.candidate]

    def answer(self, sequences: Sequences) -> Arrays:
        """Returns the outputs for whole sequences, computed element by element.

        Raises `ProofFailed` if the graph's outputs for whole sequences differ: then the paired
        outputs do not carry the states used inside of the graph.
        """
        steps = self.reference.stepwise(sequences)
        for name, values in (self.reference.whole(sequences) or {}).items():
            if not np.isfinite(values).all():
                continue  # the proof reports non-finite values
            difference = float(np.abs(values.astype(float) - steps[name]).max(initial=0))
            scale = max(1.0, float(np.abs(values.astype(float)).max(initial=0)))
            allowed = self.whole_tolerance * scale
            if not difference <= allowed:
                raise ProofFailed(
                    f"output {name!r} of the graph itself differs by {difference:.3g} between "
                    "whole sequences and one element after another; allowed are "
                    f"{allowed:.3g}: are the states' pairs right ({self.reference.pairs})? Or "
                    "does it mix time steps outside of its states?"
                )
        return steps


def applies(model: onnx.ModelProto, inputs: GraphInputs) -> bool:
    """Whether the graph has states among its inputs and outputs, by the declarations."""
    return bool(inputs.states) or roles.has_states(model, inputs)


def original(model: onnx.ModelProto, inputs: GraphInputs, options: Options) -> StreamingGraph:
    """Returns the graph as an original, with the step model; changes `model`.

    Raises `ExportError` for wrong names and for an ambiguous graph; `UnsupportedGraph` for a graph
    that can't become a step model.
    """
    open_zeros([*model.graph.input, *model.graph.output])
    if inputs.overlap < 0:
        raise ExportError(f"overlap is {inputs.overlap}; it is a number of values, 0 or more")
    assigned = roles.assign(model, inputs, outputs=[each.name for each in options.outputs])
    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    taken, arranged = _arranged(model, assigned, inputs, options, tolerance)
    candidate = wrap(
        model, assigned, arranged, input=taken, overlap=inputs.overlap, options=options
    )
    return StreamingGraph(
        input=candidate.spec.input,
        contexts=candidate.spec.contexts,
        candidate=candidate,
        reference=Reference(model, assigned, arranged, overlap=inputs.overlap),
        whole_tolerance=_LOOSE if _rounds_by_run(model) else tolerance,
    )


def _arranged(
    model: onnx.ModelProto,
    assigned: Roles,
    inputs: GraphInputs,
    options: Options,
    tolerance: float,
) -> tuple[InputSpec, Layout]:
    """Returns the element as clients push it, and the graph's layout."""
    described = element.describe(model, assigned.element, inputs.input)
    shape = None if inputs.input is None else inputs.input.shape
    overlap = inputs.overlap
    if overlap and assigned.lengths is not None:
        raise UnsupportedGraph("elements that overlap can't have lengths as well")
    if overlap and shape is not None:
        if not shape:
            raise ExportError(f"overlap is {overlap}, but an element of shape [] has no axis")
        shape = (*shape[:-1], shape[-1] + overlap)
    whole = frozenset(
        each.name for each in options.outputs if each.labels or each.kind is OutputKind.LOGITS
    )
    arranged = layout.find(
        model,
        assigned,
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
