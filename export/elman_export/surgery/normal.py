"""The form of every step model: rows first, then steps, then the element.

`chunks` gives a lifted graph the inputs and outputs `[batch, time, *shape]`. `single` gives a
lifted graph `[batch, *shape]` and runs one step at a time.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from elman_export.surgery import graphs, recurrent
from elman_export.surgery.graphs import Builder
from elman_export.surgery.layout import Layout
from elman_server.model.spec import InputSpec, OutputSpec


def chunks(
    model: ir.Model,
    input: InputSpec,
    outputs: Sequence[OutputSpec],
    layout: Layout,
    axes: Mapping[str, tuple[int | None, int]],
) -> None:
    """Gives a lifted graph inputs and outputs `[batch, time, *shape]`.

    `axes` are the batch and time axes of each output in the lifted graph.
    """
    builder = Builder(model)
    old, x = _inner(builder, input, ["batch", "time"])
    if layout.batch is None:
        found = _reshape(builder, x, [-1, *input.shape])
    elif layout.batch > layout.time:
        found = builder.node("Transpose", [x], perm=[1, 0, *range(2, 2 + len(input.shape))])
    else:
        found = builder.node("Identity", [x])
    graphs.replace(old, found)
    for output in outputs:
        batch, time = axes[output.name]
        inner = _inside(builder, output)
        if batch is None:
            found = _reshape(builder, inner, [1, -1, *output.shape], output.name)
        else:
            others = [axis for axis in range(2 + len(output.shape)) if axis not in (batch, time)]
            found = builder.node("Transpose", [inner], output.name, perm=[batch, time, *others])
        _show(builder, inner, found, output, ["batch", "time"])
    _finish(model)


def single(
    model: ir.Model,
    input: InputSpec,
    outputs: Sequence[OutputSpec],
    layout: Layout,
    lengths: str,
) -> None:
    """Gives a lifted graph inputs and outputs `[batch, *shape]`.

    Also removes the input `lengths`: every recurrent operator takes one step, and other readers of
    `lengths` read 1 for each row.
    """
    builder = Builder(model)
    old, x = _inner(builder, input, ["batch"])
    if layout.batch is None:
        found = _reshape(builder, x, [1, *input.shape])
    elif layout.batch > layout.time:
        found = _reshape(builder, x, [1, -1, *input.shape])
    else:
        found = _reshape(builder, x, [-1, 1, *input.shape])
    graphs.replace(old, found)
    for operator in recurrent.find(model.graph):
        operator.set_lengths(None)
    unread = graphs.input_named(model.graph, lengths)
    model.graph.inputs.remove(unread)
    first = builder.constant(np.array([0], np.int64), "elman/axis")
    count = builder.node("Gather", [builder.node("Shape", [x]), first])
    one = ir.Tensor(np.array([1], np.int32))
    graphs.replace(unread, builder.node("ConstantOfShape", [count], value=one))
    for output in outputs:
        inner = _inside(builder, output)
        found = _reshape(builder, inner, [-1, *output.shape], output.name)
        _show(builder, inner, found, output, ["batch"])
    _finish(model)


def _inner(builder: Builder, input: InputSpec, axes: Sequence[str]) -> tuple[ir.Value, ir.Value]:
    """Puts a new input with `axes` in the place of an input; returns the old and the new value."""
    inputs = builder.graph.inputs
    old = graphs.input_named(builder.graph, input.name)
    new = graphs.typed_value(input.name, input.dtype, [*axes, *input.shape])
    inputs[inputs.index(old)] = new
    return old, new


def _inside(builder: Builder, output: OutputSpec) -> ir.Value:
    """An output of the lifted graph, under a new name."""
    value = graphs.output_named(builder.graph, output.name)
    value.name = builder.fresh(f"{output.name}/inner")
    return value


def _show(
    builder: Builder, old: ir.Value, new: ir.Value, output: OutputSpec, axes: Sequence[str]
) -> None:
    """Puts a new output with `axes` in the place of an output."""
    outputs = builder.graph.outputs
    graphs.set_type(new, output.dtype, [*axes, *output.shape])
    outputs[outputs.index(old)] = new


def _reshape(builder: Builder, given: ir.Value, shape: Sequence[int], output: str = "") -> ir.Value:
    dims = builder.constant(np.array(shape, np.int64), "elman/shape")
    return builder.node("Reshape", [given, dims], output)


def _finish(model: ir.Model) -> None:
    model.graph.sort()
    graphs.prune(model.graph)


def strip(model: onnx.ModelProto) -> None:
    """Removes doc strings and metadata: they show the tool and the machine of the export."""
    model.graph.doc_string = model.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
