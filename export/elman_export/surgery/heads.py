"""Heads that read only the last step, changed to answer at every step.

Such a head treats each row of the batch independently. So the steps become rows: time is folded
into the batch in front of the head, and unfolded behind the head.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from elman_export.errors import CandidateFailed
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import graphs, recurrent, timeline, trace
from elman_export.surgery.graphs import Builder, describe
from elman_export.surgery.timeline import LastStep
from elman_export.surgery.trace import Traced


class HeadError(CandidateFailed):
    """A head that can't answer at every step of a chunk. Single-element steps still work."""


_H, _C = 1, 2
"""Output indices of a recurrent operator's final states."""


def answer_at_every_step(
    model: ir.Model,
    *,
    element: str,
    outputs: Sequence[str],
    kept: Sequence[str],
    feed: Callable[[int, int], Arrays],
    batch_axis: int,
    time_axis: int,
) -> None:
    """Makes `outputs` of the last step come out for every step, in place.

    `element` is the sequence input, with axes `batch_axis` and `time_axis`. `kept` are outputs to
    leave unchanged (the states). An output that already answers at every step stays unchanged too;
    the others become `[batch, time, *shape]`.

    Raises `UnsupportedGraph` for a node that mixes steps. Raises `HeadError` for a head that can't
    be separated from the rest, or reads a value known for the last step only (an LSTM's cell).
    """
    traced = trace.track(model, feed)
    last = timeline.check(model, traced)
    builder = Builder(model)
    for each in last:
        _fold(builder, each, traced)
    folded = _fold_final_states(builder, kept, traced)
    if not last and not folded:
        if lost := [name for name in outputs if not traced.axes[name].timed]:
            raise HeadError(f"it can't be told how output {lost[0]!r} picks the last step")
        return
    model.graph.sort()
    traced = trace.track(model, feed)
    timeline.check(model, traced)
    for name in outputs:
        if traced.axes[name].folded:
            _unfold(builder, name, traced, element, batch_axis, time_axis)
        elif not traced.axes[name].time:
            raise HeadError(f"output {name!r} does not follow the last step that is picked")
    model.graph.sort()


def check(model: ir.Model, feed: Callable[[int, int], Arrays], sizes: trace.Sizes) -> None:
    """Raises `UnsupportedGraph` for a node that mixes steps."""
    timeline.check(model, trace.track(model, feed, sizes))


def _fold(builder: Builder, last: LastStep, traced: Traced) -> None:
    """Gives every reader of the last step all steps, as further rows of the batch."""
    graphs.replace(last.output, _rows(builder, last, traced))


def _rows(builder: Builder, last: LastStep, traced: Traced) -> ir.Value:
    name = str(last.data.name)
    found = traced.axes[name]
    if found.time != (last.axis,) or len(found.batch) != 1:
        raise HeadError(
            f"the last step of {name!r} is picked where batch and time are one axis; the head "
            "can't be told from the rest"
        )
    (batch,) = found.batch
    perm, dims = [], []
    for axis, length in enumerate(traced.values[name].shape):
        if axis == batch:
            perm += [batch, last.axis]
            dims.append(-1)
        elif axis == last.axis:
            dims += [1] if last.keeps_axis else []
        else:
            perm.append(axis)
            dims.append(length)
    turned = builder.node("Transpose", [last.data], perm=perm)
    return builder.node(
        "Reshape", [turned, builder.constant(np.array(dims, np.int64), "elman/rows")]
    )


def _fold_final_states(builder: Builder, kept: Sequence[str], traced: Traced) -> bool:
    """Folds heads that read a layer's final state instead of its last output.

    Returns whether any head was folded.
    """
    found = False
    for operator in recurrent.find(builder.graph):
        if operator.branches:
            continue
        h, c = operator.output(_H), operator.output(_C)
        if c is not None and _heads(c, kept):
            raise HeadError(
                f"a head reads the cell of {describe(operator.node)}, which it gives for the last "
                "step only"
            )
        if h is None or not (uses := _heads(h, kept)):
            continue
        y = operator.output(0)
        if y is None or y.name not in traced.axes:
            raise HeadError(
                f"a head reads the final state of {describe(operator.node)}, which gives no other "
                "output"
            )
        steps = traced.axes[str(y.name)].time
        if len(steps) != 1 or len(traced.axes[str(y.name)].batch) != 1:
            raise HeadError(f"the layer that gives {h.name!r} does not run along time")
        rows = _rows(builder, LastStep(output=h, data=y, axis=steps[0], keeps_axis=False), traced)
        for node, index in uses:
            node.replace_input_with(index, rows)
        found = True
    return found


def _heads(state: ir.Value, kept: Sequence[str]) -> list[tuple[ir.Node, int]]:
    """The uses of a final state, except by nodes that make the outputs `kept`."""
    return [
        (node, index)
        for node, index in state.uses()
        if not any(value.name in kept for value in node.outputs)
    ]


def _unfold(
    builder: Builder, name: str, traced: Traced, element: str, batch_axis: int, time_axis: int
) -> None:
    """Turns `[batch x time, *shape]` into `[batch, time, *shape]`, under the same name."""
    graph = builder.graph
    shape = traced.values[name].shape
    rows = traced.axes[name].folded[0]
    inner = graphs.output_named(graph, name)
    inner.name = builder.fresh(f"{name}/rows")
    others = [axis for axis in range(len(shape)) if axis != rows]
    turned = inner if rows == 0 else builder.node("Transpose", [inner], perm=[rows, *others])
    sizes = builder.node("Shape", [graphs.input_named(graph, element)])
    index = builder.constant(np.array([batch_axis, time_axis], np.int64), "elman/axes")
    front = builder.node("Gather", [sizes, index])
    rest = builder.constant(np.array([shape[axis] for axis in others], np.int64), "elman/shape")
    dims = builder.node("Concat", [front, rest], axis=0)
    unfolded = builder.node("Reshape", [turned, dims], name)
    unfolded.type = inner.type
    graph.outputs[graph.outputs.index(inner)] = unfolded
