"""Heads that read the last step only, made to answer at every step.

Such a head treats each row of its batch by itself. So the steps become rows: in front of the head
time is folded into the batch, and behind it taken out again.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from elman_export.errors import ExportError
from elman_export.stepmodel import Arrays
from elman_export.surgery import recurrent, timeline, trace
from elman_export.surgery.editor import Editor, describe
from elman_export.surgery.trace import Axes


class HeadError(ExportError):
    """A head that can't answer at every step of a chunk; it still can if steps come one by one."""


_H, _C = 1, 2
"""Which outputs of a recurrent operator are its final states."""


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
    """Has `outputs` that depend on the last step only come out for every step, in place.

    `element` is the input with the sequence and its axes; `kept` are outputs that stay as they are
    (the states). An output that answers at every step already is left alone; the others become
    `[batch, time, *shape]`.

    Raises `UnsupportedGraph` for a node that mixes steps, and `HeadError` where a head can't be
    told from the rest or reads what is known of the last step only (an LSTM's cell).
    """
    axes, values = trace.track(model, feed)
    last = timeline.check(model, axes, values)
    editor = Editor(model)
    for each in last:
        _fold(editor, each.data, each.axis, axes, values, each.output, keeps_axis=each.keeps_axis)
    folded = _fold_final_states(editor, kept, axes, values)
    if not last and not folded:
        if lost := [name for name in outputs if not axes[name].timed]:
            raise HeadError(f"it can't be told how output {lost[0]!r} picks the last step")
        return
    editor.sort()
    axes, values = trace.track(model, feed)
    timeline.check(model, axes, values)
    for name in outputs:
        if axes[name].folded:
            _unfold(editor, name, axes, values, element, batch_axis, time_axis)
        elif not axes[name].time:
            raise HeadError(f"output {name!r} does not follow the last step that is picked")
    editor.sort()


def check(model: onnx.ModelProto, feed: Callable[[int, int], Arrays], sizes: trace.Sizes) -> None:
    """Raises `UnsupportedGraph` for a node that mixes steps."""
    timeline.check(model, *trace.track(model, feed, sizes))


def _fold(
    editor: Editor,
    data: str,
    time: int,
    axes: Mapping[str, Axes],
    values: Mapping[str, np.ndarray],
    replaced: str,
    *,
    keeps_axis: bool,
) -> None:
    """Has what reads `replaced` read `data` with its steps as further rows of the batch."""
    found = axes[data]
    if found.time != (time,) or len(found.batch) != 1:
        raise HeadError(
            f"the last step of {data!r} is picked where batch and time are one axis; the head "
            "can't be told from the rest"
        )
    (batch,) = found.batch
    shape = values[data].shape
    perm, dims = [], []
    for axis, length in enumerate(shape):
        if axis == batch:
            perm += [batch, time]
            dims.append(-1)
        elif axis == time:
            dims += [1] if keeps_axis else []
        else:
            perm.append(axis)
            dims.append(length)
    turned = editor.node("Transpose", [data], perm=perm)
    rows = editor.node("Reshape", [turned, editor.constant(np.array(dims, np.int64), "elman/rows")])
    editor.replace(replaced, rows)


def _fold_final_states(
    editor: Editor,
    kept: Sequence[str],
    axes: Mapping[str, Axes],
    values: Mapping[str, np.ndarray],
) -> bool:
    """The same for heads that read a layer's final state instead of its last output."""
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
        if not y or y not in axes:
            raise HeadError(
                f"a head reads the final state of {describe(operator.node)}, which gives no other "
                "output"
            )
        kept_reader = [name for name, source in carried.items() if source == h]
        _fold_behind(editor, y, h, axes, values, kept_reader)
        found = True
    return found


def _fold_behind(
    editor: Editor,
    y: str,
    h: str,
    axes: Mapping[str, Axes],
    values: Mapping[str, np.ndarray],
    kept: Sequence[str],
) -> None:
    steps = axes[y].time
    if len(steps) != 1 or len(axes[y].batch) != 1:
        raise HeadError(f"the layer that gives {h!r} does not run along time")
    saved = editor.fresh(f"{h}/state")
    for node in editor.graph.node:
        if set(node.output) & set(kept):
            node.input[:] = [saved if name == h else name for name in node.input]
    _fold(editor, y, steps[0], axes, values, h, keeps_axis=False)
    for node in editor.graph.node:
        if set(node.output) & set(kept):
            node.input[:] = [h if name == saved else name for name in node.input]


def _unfold(
    editor: Editor,
    name: str,
    axes: Mapping[str, Axes],
    values: Mapping[str, np.ndarray],
    element: str,
    batch_axis: int,
    time_axis: int,
) -> None:
    """`[batch x time, *shape]` as `[batch, time, *shape]`, under the same name."""
    shape = values[name].shape
    rows = axes[name].folded[0]
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
