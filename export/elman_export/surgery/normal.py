"""The form of every step model: rows first, then steps, then the element.

`chunks` gives a lifted graph the inputs and outputs `[batch, time, *shape]`. `single` gives a
lifted graph `[batch, *shape]` and runs one step at a time.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from elman_export.surgery import recurrent
from elman_export.surgery.editor import Editor
from elman_export.surgery.layout import Layout
from elman_server.model.spec import InputSpec, OutputSpec


def chunks(
    editor: Editor,
    input: InputSpec,
    outputs: Sequence[OutputSpec],
    layout: Layout,
    axes: Mapping[str, tuple[int | None, int]],
) -> None:
    """Gives a lifted graph inputs and outputs `[batch, time, *shape]`.

    `axes` are the batch and time axes of each output in the lifted graph.
    """
    old = _inner(editor, input, ["batch", "time"])
    if layout.batch is None:
        _reshape(editor, input.name, [-1, *input.shape], old)
    elif layout.batch > layout.time:
        _swap(editor, input.name, 2 + len(input.shape), old)
    else:
        editor.node("Identity", [input.name], old)
    for output in outputs:
        batch, time = axes[output.name]
        inner = _renamed(editor, output, ["batch", "time"])
        if batch is None:
            _reshape(editor, inner, [1, -1, *output.shape], output.name)
        else:
            others = [axis for axis in range(2 + len(output.shape)) if axis not in (batch, time)]
            editor.node("Transpose", [inner], output.name, perm=[batch, time, *others])
    _finish(editor)


def single(
    editor: Editor,
    input: InputSpec,
    outputs: Sequence[OutputSpec],
    layout: Layout,
    lengths: str,
) -> None:
    """Gives a lifted graph inputs and outputs `[batch, *shape]`.

    Also removes the input `lengths`: every recurrent operator takes one step, and other readers of
    `lengths` read 1 for each row.
    """
    old = _inner(editor, input, ["batch"])
    if layout.batch is None:
        _reshape(editor, input.name, [1, *input.shape], old)
    elif layout.batch > layout.time:
        _reshape(editor, input.name, [1, -1, *input.shape], old)
    else:
        _reshape(editor, input.name, [-1, 1, *input.shape], old)
    for operator in recurrent.find(editor.graph):
        operator.set_lengths("")
    editor.drop_inputs({lengths})
    rows = editor.node("Shape", [input.name])
    first = editor.constant(np.array([0], np.int64), "elman/axis")
    count = editor.node("Gather", [rows, first])
    one = helper.make_tensor("one", TensorProto.INT32, [1], [1])
    editor.node("ConstantOfShape", [count], lengths, value=one)
    for output in outputs:
        inner = _renamed(editor, output, ["batch"])
        _reshape(editor, inner, [-1, *output.shape], output.name)
    _finish(editor)


def _inner(editor: Editor, input: InputSpec, axes: Sequence[str]) -> str:
    """Gives the input's name to a new input with `axes`; returns the old tensor's new name."""
    old = editor.fresh(f"{input.name}/inner")
    editor.replace(input.name, old)
    value = next(each for each in editor.graph.input if each.name == input.name)
    value.CopyFrom(
        helper.make_tensor_value_info(
            input.name, value.type.tensor_type.elem_type, [*axes, *input.shape]
        )
    )
    return old


def _renamed(editor: Editor, output: OutputSpec, axes: Sequence[str]) -> str:
    """Gives the output's name to a new output with `axes`; returns the old tensor's new name."""
    inner = editor.fresh(f"{output.name}/inner")
    for node in editor.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    editor.replace(output.name, inner)
    value = next(each for each in editor.graph.output if each.name == output.name)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype))
    value.CopyFrom(helper.make_tensor_value_info(output.name, kind, [*axes, *output.shape]))
    return inner


def _reshape(editor: Editor, given: str, shape: Sequence[int], output: str) -> None:
    dims = editor.constant(np.array(shape, np.int64), "elman/shape")
    editor.node("Reshape", [given, dims], output)


def _swap(editor: Editor, given: str, rank: int, output: str) -> None:
    editor.node("Transpose", [given], output, perm=[1, 0, *range(2, rank)])


def _finish(editor: Editor) -> None:
    editor.sort()
    editor.prune()


def strip(model: onnx.ModelProto) -> None:
    """Removes doc strings and metadata: they show the tool and the machine of the export."""
    model.graph.doc_string = model.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
