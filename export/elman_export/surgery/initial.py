"""The initial-state network: the part of a graph that computes initial states from contexts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx
import onnx_ir as ir

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder
from elman_export.surgery.onnxnodes import SIZES_ONLY
from elman_server.model.spec import ContextSpec, ModelSpec, StateSpec


def sources(value: ir.Value) -> set[str]:
    """The graph inputs on which a value depends; sizes of inputs do not count."""
    found: set[str] = set()
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if each.is_graph_input():
            found.add(str(each.name))
        maker = each.producer()
        if maker is not None and maker.op_type not in SIZES_ONLY:
            waiting.extend(graphs.reads(maker))
    return found


def split(
    model: onnx.ModelProto, spec: ModelSpec, tensors: Mapping[str, str]
) -> tuple[onnx.ModelProto, ModelSpec, onnx.ModelProto | None]:
    """Splits a graph into the graph of one step, with a spec, and the initial-state network.

    `tensors` names, for each computed state, the tensor in `model`'s graph with the initial state.
    A context without a reader in the step loses its input. Raises `ExportError` for a context
    without any reader.
    """
    editable = graphs.read(model)
    initial = extract(editable, tensors, spec.states, spec.contexts) if tensors else None
    outputs = editable.graph.outputs
    for value in [each for each in outputs if each.name in tensors.values()]:
        outputs.remove(value)
    spec = trim(editable, spec, initial)
    return graphs.write(editable), spec, initial


def trim(model: ir.Model, spec: ModelSpec, initial: onnx.ModelProto | None) -> ModelSpec:
    """Removes unneeded parts from the graph of one step, in place; returns the new spec.

    A context without a reader in the step loses its input. Raises `ExportError` for a context
    without any reader.
    """
    graph = model.graph
    graphs.prune(graph)
    needed = {value.name for value in graph.inputs if value.uses() or value.is_graph_output()}
    contexts = tuple(
        replace(each, input=each.name if each.name in needed else None) for each in spec.contexts
    )
    unread = [each.name for each in contexts if each.input is None]
    for name in unread:
        graph.inputs.remove(graphs.input_named(graph, name))
    if unread and initial is None:
        raise ExportError(f"nothing in the network reads context {unread[0]!r}")
    return replace(spec, contexts=contexts)


def extract(
    model: ir.Model,
    tensors: Mapping[str, str],
    states: Sequence[StateSpec],
    contexts: Sequence[ContextSpec],
) -> onnx.ModelProto:
    """A model from contexts, `[batch, *shape]`, to initial states by name, `[batch, *shape]`.

    `tensors` names, for each computed state, the tensor in `model`'s graph with the initial state,
    in the layout of the state's spec. Raises `UnsupportedGraph` for an initial state that needs the
    sequence.
    """
    computed = [state for state in states if state.name in tensors]
    network = graphs.extract(model, [tensors[state.name] for state in computed])
    graph = network.graph
    graph.name = "initial"
    network.metadata_props.clear()
    names = {context.name for context in contexts}
    for value in graph.inputs:
        if value.name not in names:
            raise UnsupportedGraph(
                f"a layer's first state needs {value.name!r}, which is no context; a stream's "
                "first state is known before its first element"
            )
    builder = Builder(network)
    for index, state in enumerate(computed):
        others = [axis for axis in range(len(state.shape) + 1) if axis != state.batch_axis]
        found = graph.outputs[index]
        if found.name == state.name:
            found.name = builder.fresh(f"{state.name}/inner")
        made = builder.node("Transpose", [found], state.name, perm=[state.batch_axis, *others])
        graphs.set_type(made, state.dtype, ["batch", *state.shape])
        graph.outputs[index] = made
    inputs = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    for context in contexts:
        value = inputs.get(context.name) or ir.Value(name=context.name)
        graphs.set_type(value, context.dtype, ["batch", *context.shape])
        graph.inputs.append(value)
    return graphs.write(network)
