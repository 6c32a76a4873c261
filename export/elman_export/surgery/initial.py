"""The initial-state network: the part of a graph that computes initial states from contexts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.surgery.editor import Editor, places, reads
from elman_export.surgery.onnxnodes import SIZES_ONLY
from elman_server.model.spec import ContextSpec, ModelSpec, StateSpec


def sources(graph: onnx.GraphProto, name: str) -> set[str]:
    """The graph inputs on which a tensor depends; sizes of inputs do not count."""
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
        if maker is not None and maker.op_type not in SIZES_ONLY:
            waiting.extend(reads(maker))
    return found


def split(
    model: onnx.ModelProto, spec: ModelSpec, tensors: Mapping[str, str]
) -> tuple[onnx.ModelProto, ModelSpec, onnx.ModelProto | None]:
    """Splits a graph into the graph of one step, with a spec, and the initial-state network.

    `tensors` names, for each computed state, the tensor in `model`'s graph with the initial state.
    A context without a reader in the step loses its input. Raises `ExportError` for a context
    without any reader.
    """
    initial = extract(model, tensors, spec.states, spec.contexts) if tensors else None
    for value in [each for each in model.graph.output if each.name in tensors.values()]:
        model.graph.output.remove(value)
    return *trim(model, spec, initial), initial


def trim(
    model: onnx.ModelProto, spec: ModelSpec, initial: onnx.ModelProto | None
) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph of one step without unneeded parts, and the new spec.

    A context without a reader in the step loses its input. Raises `ExportError` for a context
    without any reader.
    """
    editor = Editor(model)
    editor.prune()
    needed = editor.needed()
    contexts = tuple(
        replace(each, input=each.name if each.name in needed else None) for each in spec.contexts
    )
    unread = [each.name for each in contexts if each.input is None]
    editor.drop_inputs(unread)
    if unread and initial is None:
        raise ExportError(f"nothing in the network reads context {unread[0]!r}")
    return model, replace(spec, contexts=contexts)


def extract(
    model: onnx.ModelProto,
    tensors: Mapping[str, str],
    states: Sequence[StateSpec],
    contexts: Sequence[ContextSpec],
) -> onnx.ModelProto:
    """A model from contexts, `[batch, *shape]`, to initial states by name, `[batch, *shape]`.

    `tensors` names, for each computed state, the tensor in `model`'s graph with the initial state,
    in the layout of the state's spec. Raises `UnsupportedGraph` for an initial state that needs the
    sequence.
    """
    network = onnx.ModelProto()
    network.CopyFrom(model)
    network.graph.name = "initial"
    del network.metadata_props[:]
    del network.graph.output[:]
    editor = Editor(network)
    made: dict[str, StateSpec] = {}
    for state in states:
        if state.name in tensors:
            others = [axis for axis in range(len(state.shape) + 1) if axis != state.batch_axis]
            perm = [state.batch_axis, *others]
            made[editor.node("Transpose", [tensors[state.name]], perm=perm)] = state
    for name, state in made.items():
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(state.dtype))
        dims: list[str | int | None] = ["batch", *state.shape]
        editor.graph.output.append(helper.make_tensor_value_info(name, kind, dims))
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
    # Rename only now: before, the step's graph had an input with the state's name.
    for node in editor.graph.node:
        node.output[:] = [made[name].name if name in made else name for name in node.output]
    for value in editor.graph.output:
        value.name = made[value.name].name
    return network
