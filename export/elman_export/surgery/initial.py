"""The initial-state network: the part of a graph that makes first states of contexts."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from elman_export.errors import UnsupportedGraph
from elman_export.surgery.editor import Editor, places, reads
from elman_server.spec import ContextSpec, StateSpec


def sources(graph: onnx.GraphProto, name: str) -> set[str]:
    """The inputs of the graph that a tensor depends on; sizes of inputs do not count."""
    makers = {made: node for node in graph.node for made in node.output if made}
    inner = {made: place.node for place in places(graph) for made in place.node.output if made}
    given = {value.name for value in graph.input}
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if each in given:
            found.add(each)
            continue
        maker = makers.get(each) or inner.get(each)
        if maker is not None and maker.op_type not in ("Shape", "Size"):
            waiting.extend(reads(maker))
    return found


def extract(
    model: onnx.ModelProto,
    tensors: Mapping[str, str],
    states: Sequence[StateSpec],
    contexts: Sequence[ContextSpec],
) -> onnx.ModelProto:
    """A model from contexts, `[batch, *shape]`, to states, `[batch, *shape]` by name.

    `tensors` says which tensor of `model`'s graph is which state at first, laid out as its spec
    says. Raises `UnsupportedGraph` where one needs the sequence.
    """
    network = onnx.ModelProto()
    network.CopyFrom(model)
    network.graph.name = "initial"
    del network.metadata_props[:]
    del network.graph.output[:]
    editor = Editor(network)
    for state in states:
        if state.name not in tensors:
            continue
        axes = [
            state.batch_axis,
            *(a for a in range(len(state.shape) + 1) if a != state.batch_axis),
        ]
        made = editor.node("Transpose", [tensors[state.name]], editor.fresh(state.name), perm=axes)
        if made != state.name:
            raise UnsupportedGraph(f"the graph has a tensor called {state.name!r} already")
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(state.dtype))
        editor.graph.output.append(
            helper.make_tensor_value_info(state.name, kind, ["batch", *state.shape])
        )
    editor.sort()
    editor.prune()
    needed = editor.needed()
    names = {context.name for context in contexts}
    for value in editor.graph.input:
        if value.name in needed and value.name not in names:
            raise UnsupportedGraph(
                f"a layer's first state needs {value.name!r}, which is no context; a stream's "
                "first state is known before its first element"
            )
    del editor.graph.input[:]
    for context in contexts:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(context.dtype))
        editor.graph.input.append(
            helper.make_tensor_value_info(context.name, kind, ["batch", *context.shape])
        )
    return network
