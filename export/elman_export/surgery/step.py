"""Makes the graph of one step from a whole-sequence graph.

States are lifted, sizes are opened, and heads answer at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx_ir as ir

from elman_export.candidate import Candidate
from elman_export.errors import ExportError
from elman_export.interface import values
from elman_export.proof.sample import random_contexts, random_elements
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import graphs, heads, lift, loosen, normal, trace
from elman_export.surgery.given import Lengths
from elman_export.surgery.graphs import Builder
from elman_export.surgery.held import hold_gates
from elman_export.surgery.initial import extract, trim
from elman_export.surgery.layout import Layout
from elman_export.surgery.lift import Lifted
from elman_export.surgery.wholegraph import WholeGraph, sizes
from elman_server.model.spec import DType, ModelSpec, OutputSpec, StateSpec

_LENGTHS = "lengths"


def chunked(subject: WholeGraph, description: str) -> Candidate:
    """A step of any number of elements for each row."""
    work = _lifted(subject)
    model, found = work.model, work.layout
    tried = sizes(found)
    if found.batch is not None and found.fixed_batch is None:
        heads.answer_at_every_step(
            model,
            element=subject.input.name,
            outputs=list(subject.outputs),
            kept=[each.output for each in work.states],
            feed=work.feed,
            batch_axis=found.batch,
            time_axis=found.time,
        )
    elif any(seen.time is None for seen in subject.outputs.values()):
        raise heads.HeadError("an output is of the last step, and there is no axis for the batch")
    else:
        heads.check(model, work.feed, tried)
    axes: dict[str, tuple[int | None, int]] = {}
    for name, seen in subject.outputs.items():
        axes[name] = (0, 1) if seen.time is None else (seen.batch, seen.time)
    spec = _spec(subject, work, description, time_axis=True)
    normal.chunks(model, subject.input, spec.outputs, found, axes)
    return _finished(work, spec)


def single(subject: WholeGraph, description: str) -> Candidate:
    """A step of one element for each row."""
    work = _lifted(subject)
    model, found = work.model, work.layout
    heads.check(model, work.feed, sizes(found))
    spec = _spec(subject, work, description, time_axis=False)
    normal.single(model, subject.input, spec.outputs, found, work.lengths)
    return _finished(work, spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Working:
    """A copy of the graph with lifted states."""

    model: ir.Model
    before: ir.Model
    """The graph before lifting."""
    states: Sequence[Lifted]
    lengths: str
    """The name of the input of lengths."""
    layout: Layout
    feed: Callable[[int, int], Arrays]
    """Zeros for (batch, time), including states, lengths and contexts."""


def _lifted(subject: WholeGraph) -> _Working:
    found = subject.layout
    if found.batch is not None and found.fixed_batch is not None:
        opened = replace(found, fixed_batch=None, fixed_time=None)
        try:
            work = _lift(subject, subject.closed.clone(), opened)
            _open_batch(work, subject)
        except ExportError:
            pass  # The sizes can't be found or do not run: the batch size stays fixed.
        else:
            return work
    return _lift(subject, subject.model.clone(), found)


def _lift(subject: WholeGraph, model: ir.Model, found: Layout) -> _Working:
    for each in [*model.graph.outputs]:
        if each.name not in subject.outputs:
            model.graph.outputs.remove(each)
    input = subject.input
    rng = np.random.default_rng(0)
    declared = subject.layout
    rows = declared.fixed_batch or 3
    feeds = [
        subject.original.feed(
            declared.arrange(random_elements(input, rows, time, rng)),
            random_contexts(subject.contexts, rows, rng),
        )
        for time in (declared.fixed_time or 4, declared.fixed_time or 1)
    ]
    lengths = _take_lengths(model, subject.lengths)
    before = model.clone()
    taken = graphs.input_named(model.graph, lengths)
    states = lift.lift(model, taken, feeds, [each.name for each in subject.contexts])
    hold_gates(model)
    model.graph.sort()
    graphs.prune(model.graph)

    def feed(batch: int, time: int) -> Arrays:
        x = found.arrange(np.zeros((batch, time, *input.shape), input.dtype))
        return {
            input.name: x,
            lengths: np.full(batch, time, np.int32),
            **{each.input: np.zeros((1, batch, each.hidden_size), "f") for each in states},
            **{each.name: np.zeros((batch, *each.shape), each.dtype) for each in subject.contexts},
        }

    return _Working(
        model=model, before=before, states=states, lengths=lengths, layout=found, feed=feed
    )


def _take_lengths(model: ir.Model, lengths: Lengths | None) -> str:
    """Adds an int32 input of lengths; returns the input's name.

    An existing input of lengths becomes a cast of the new input.
    """
    builder = Builder(model)
    name = lengths.name if lengths is not None else builder.fresh(_LENGTHS)
    taken = graphs.typed_value(name, np.int32, ["batch"])
    if lengths is not None:
        old = graphs.input_named(model.graph, name)
        model.graph.inputs.remove(old)
        kind = ir.DataType.from_numpy(np.dtype(lengths.dtype))
        graphs.replace(old, builder.node("Cast", [taken], to=int(kind)))
    model.graph.inputs.append(taken)
    model.graph.sort()
    return name


def _open_batch(work: _Working, subject: WholeGraph) -> None:
    """Opens the batch size and the number of steps of a lifted graph, in place."""
    found = subject.layout
    assert found.fixed_batch is not None and found.batch is not None
    graph = work.model.graph
    opened = [
        (subject.input.name, found.batch, "batch"),
        (subject.input.name, found.time, "time"),
        *((each.name, 0, "batch") for each in subject.contexts),
    ]
    for input, axis, name in opened:
        graphs.open_axis(graphs.input_named(graph, input), axis, name)
    fixed = (found.fixed_batch, found.fixed_time or 7)
    other = (fixed[0] + 2, fixed[1] + 4)
    loosen.loosen(
        work.model,
        element=subject.input.name,
        axes=(found.batch, found.time),
        open_batch=False,
        fixed=loosen.Sizes(*fixed),
        other=loosen.Sizes(*other),
        feed=work.feed(*fixed),
        other_feed=work.feed(*other),
    )
    trace.run(work.model, work.feed(*other), list(subject.outputs))


def _spec(subject: WholeGraph, work: _Working, description: str, *, time_axis: bool) -> ModelSpec:
    outputs = []
    for name, seen in subject.outputs.items():
        meaning = subject.meanings.get(name) or values(name)
        outputs.append(
            OutputSpec(
                name=name,
                kind=meaning.kind,
                dtype=cast(DType, seen.dtype),
                shape=seen.shape,
                labels=meaning.labels,
            )
        )
    batched = work.layout.batch is not None and work.layout.fixed_batch is None
    return ModelSpec(
        description=description,
        input=subject.input,
        outputs=tuple(outputs),
        states=tuple(
            StateSpec(
                name=each.name,
                input=each.input,
                output=each.output,
                dtype="float32",
                shape=(1, each.hidden_size),
                batch_axis=1,
                initial=None if each.initial is None else tuple(each.initial.ravel().tolist()),
            )
            for each in work.states
        ),
        time_axis=time_axis,
        lengths=work.lengths if time_axis else None,
        batched=batched,
        contexts=tuple(replace(each, input=each.name) for each in subject.contexts),
        initialized=tuple(each.name for each in work.states if each.computed is not None),
    )


def _finished(work: _Working, spec: ModelSpec) -> Candidate:
    computed = {each.name: each.computed for each in work.states if each.computed is not None}
    initial = extract(work.before, computed, spec.states, spec.contexts) if computed else None
    spec = trim(work.model, spec, initial)
    model = graphs.write(work.model)
    model.graph.name = "step"
    for each in filter(None, (model, initial)):
        normal.strip(each)
    return Candidate(model=model, spec=spec, initial=initial)
