"""Heads that read only the last step, changed to answer at every step.

Such a head treats each row of the batch independently. So the steps become rows: time is folded
into the batch in front of the head, and unfolded behind the head.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from elman_export.errors import CandidateFailed
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import recurrent, timeline, trace
from elman_export.surgery.editor import Editor
from elman_export.surgery.onnxnodes import describe
from elman_export.surgery.timeline import LastStep
from elman_export.surgery.trace import Traced


class HeadError(CandidateFailed):
    """A head that can't answer at every step of a chunk. Single-element steps still work."""


_H, _C = 1, 2
"""Output indices of a recurrent operator's final states."""


def answer_at_every_step(
    model: onnx.ModelProto,
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
    editor = Editor(model)
    for each in last:
        _fold(editor, each, traced)
    folded = _fold_final_states(editor, kept, traced)
    if not last and not folded:
        if lost := [name for name in outputs if not traced.axes[name].timed]:
            raise HeadError(f"it can't be told how output {lost[0]!r} picks the last step")
        return
    editor.sort()
    traced = trace.track(model, feed)
    timeline.check(model, traced)
    for name in outputs:
        if traced.axes[name].folded:
            _unfold(editor, name, traced, element, batch_axis, time_axis)
        elif not traced.axes[name].time:
            raise HeadError(f"output {name!r} does not follow the last step that is picked")
    editor.sort()


def check(model: onnx.ModelProto, feed: Callable[[int, int], Arrays], sizes: trace.Sizes) -> None:
    """Raises `UnsupportedGraph` for a node that mixes steps."""
    timeline.check(model, trace.track(model, feed, sizes))


def _fold(editor: Editor, last: LastStep, traced: Traced) -> None:
    """Gives every reader of the last step all steps, as further rows of the batch."""
    found = traced.axes[last.data]
    if found.time != (last.axis,) or len(found.batch) != 1:
        raise HeadError(
            f"the last step of {last.data!r} is picked where batch and time are one axis; the head "
            "can't be told from the rest"
        )
    (batch,) = found.batch
    perm, dims = [], []
    for axis, length in enumerate(traced.values[last.data].shape):
        if axis == batch:
            perm += [batch, last.axis]
            dims.append(-1)
        elif axis == last.axis:
            dims += [1] if last.keeps_axis else []
        else:
            perm.append(axis)
            dims.append(length)
    turned = editor.node("Transpose", [last.data], perm=perm)
    rows = editor.node("Reshape", [turned, editor.constant(np.array(dims, np.int64), "elman/rows")])
    editor.replace(last.output, rows)


def _fold_final_states(editor: Editor, kept: Sequence[str], traced: Traced) -> bool:
    """Folds heads that read a layer's final state instead of its last output.

    Returns whether any head was folded.
    """
    carried = {
        name: node.input[0]
        for node in editor.graph.node
        for name in node.output
        if name in kept and node.op_type == "Identity"
    }
    readers = [
        name
        for node in editor.graph.node
        if not set(node.output) & set(kept)
        for name in node.input
    ]
    found = False
    for operator in recurrent.find(editor.graph):
        if operator.branches:
            continue
        h, c = operator.output(_H), operator.output(_C)
        if c and c in readers:
            raise HeadError(
                f"a head reads the cell of {describe(operator.node)}, which it gives for the last "
                "step only"
            )
        if not h or h not in readers:
            continue
        y = operator.output(0)
        if not y or y not in traced.axes:
            raise HeadError(
                f"a head reads the final state of {describe(operator.node)}, which gives no other "
                "output"
            )
        kept_reader = [name for name, source in carried.items() if source == h]
        _fold_behind(editor, y, h, traced, kept_reader)
        found = True
    return found


def _fold_behind(editor: Editor, y: str, h: str, traced: Traced, kept: Sequence[str]) -> None:
    steps = traced.axes[y].time
    if len(steps) != 1 or len(traced.axes[y].batch) != 1:
        raise HeadError(f"the layer that gives {h!r} does not run along time")
    saved = editor.fresh(f"{h}/state")
    for node in editor.graph.node:
        if set(node.output) & set(kept):
            node.input[:] = [saved if name == h else name for name in node.input]
    _fold(editor, LastStep(output=h, data=y, axis=steps[0], keeps_axis=False), traced)
    for node in editor.graph.node:
        if set(node.output) & set(kept):
            node.input[:] = [h if name == saved else name for name in node.input]


def _unfold(
    editor: Editor, name: str, traced: Traced, element: str, batch_axis: int, time_axis: int
) -> None:
    """Turns `[batch x time, *shape]` into `[batch, time, *shape]`, under the same name."""
    shape = traced.values[name].shape
    rows = traced.axes[name].folded[0]
    inner = editor.fresh(f"{name}/rows")
    for node in editor.graph.node:
        node.output[:] = [inner if each == name else each for each in node.output]
    editor.replace(name, inner)
    others = [axis for axis in range(len(shape)) if axis != rows]
    turned = inner if rows == 0 else editor.node("Transpose", [inner], perm=[rows, *others])
    sizes = editor.node("Shape", [element])
    index = editor.constant(np.array([batch_axis, time_axis], np.int64), "elman/axes")
    front = editor.node("Gather", [sizes, index])
    rest = editor.constant(np.array([shape[axis] for axis in others], np.int64), "elman/shape")
    dims = editor.node("Concat", [front, rest], axis=0)
    editor.node("Reshape", [turned, dims], name)
