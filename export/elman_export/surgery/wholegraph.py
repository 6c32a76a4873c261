"""A whole-sequence graph, with the findings from inspecting and running it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.interface import Output
from elman_export.proof.sample import random_elements
from elman_export.proof.stepmodel import Arrays, RuntimeFailed
from elman_export.surgery import (
    baked,
    given,
    graphs,
    heads,
    inline,
    layout,
    loosen,
    mixing,
    recurrent,
    trace,
)
from elman_export.surgery.given import Lengths
from elman_export.surgery.graphs import describe
from elman_export.surgery.layout import Layout
from elman_export.surgery.onnxnodes import RANDOM
from elman_export.surgery.original import Original, Seen
from elman_server.model.spec import ContextSpec, InputSpec

_AS_OPERATOR = (
    "export the layer as an operator (torch.onnx.export with dynamo=False does), or one step of it "
    "with its state as input and output"
)
_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
_LAYOUT_ONLY = ("Identity", "Concat", "Squeeze", "Unsqueeze", "Transpose", "Reshape")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeGraph:
    """A whole-sequence graph to export, with layout, inputs and outputs."""

    model: ir.Model
    """The graph with an open number of steps. Its inputs are the sequence and, if present, lengths
    and contexts.
    """
    closed: ir.Model
    """The graph with the sizes hard-coded by the exporter."""
    original: Original
    input: InputSpec
    layout: Layout
    outputs: Mapping[str, Seen]
    """The wanted outputs by name, in order."""
    meanings: Mapping[str, Output]
    lengths: Lengths | None
    contexts: tuple[ContextSpec, ...]

    @staticmethod
    def of(
        file: onnx.ModelProto,
        input: InputSpec | None,
        outputs: Sequence[Output],
        constants: Mapping[str, Any],
        contexts: Sequence[str],
    ) -> "WholeGraph":
        if file.functions:
            file = onnx.inliner.inline_local_functions(file)
        model = graphs.read(file)
        graphs.lift_constants(model.graph)
        given.fix(model.graph, constants)
        _only_wanted(model.graph, outputs)
        _check_repeatable(model.graph)
        if not recurrent.find(model.graph):
            raise UnsupportedGraph(_no_recurrence(model.graph))
        lengths = given.lengths_input(model)
        session = given.contexts(model, contexts)
        value = given.element(model, lengths, session)
        input = given.element_spec(value, input)

        def feed(x: np.ndarray) -> Arrays:
            fed = {str(value.name): x}
            # The batch axis is still unknown, so the number of rows here may be wrong. Nodes before
            # the first layer read neither lengths nor contexts.
            if lengths is not None:
                fed[lengths.name] = np.ones(len(x), lengths.dtype)
            return fed | {
                each.name: np.zeros((len(x), *each.shape), each.dtype) for each in session
            }

        found = layout.find(model, value, input, feed)
        closed = model.clone()

        def as_it_is(layout: Layout) -> Original:
            return Original(
                graphs.write(model), input=input, layout=layout, lengths=lengths, contexts=session
            )

        if found.fixed_time is None:
            found = replace(found, fixed_time=baked.length(model, as_it_is(found).try_length))
        if found.fixed_time is not None:
            _loosen_time(model, value, input, found)
        tried = sizes(found)
        original = as_it_is(found)
        if session and found.batch is None:
            raise UnsupportedGraph("a graph without an axis for the batch can't be given contexts")
        zeros = [np.zeros((batch, time, *input.shape), input.dtype) for batch, time in tried]
        inline.inline(model, [original.feed(found.arrange(x)) for x in zeros])
        heads.check(
            model,
            lambda batch, time: original.feed(
                found.arrange(np.zeros((batch, time, *input.shape), input.dtype))
            ),
            tried,
        )
        seen = _wanted(model.graph, original.look(tried), outputs)
        return WholeGraph(
            model=model,
            closed=closed,
            original=original,
            input=input,
            layout=found,
            outputs=seen,
            meanings={each.name: each for each in outputs},
            lengths=lengths,
            contexts=session,
        )


def sizes(found: Layout) -> trace.Sizes:
    """Run sizes, (batch, time), at which batch and time axes can be distinguished."""
    if found.fixed_batch is None:
        return trace.SIZES
    one, longer, other = ((found.fixed_batch, time) for _, time in trace.ONE_ROW)
    return one, longer, other


def _only_wanted(graph: ir.Graph, outputs: Sequence[Output]) -> None:
    """Removes unwanted outputs, and nodes needed only for them.

    Also clears the declared shapes of the wanted outputs: exporters declare the sizes of their
    examples.
    """
    names = [str(each.name) for each in graph.outputs]
    for each in outputs:
        if each.name not in names:
            raise ExportError(
                f"output {each.name!r} is none of the graph's; those are "
                f"{', '.join(map(repr, names))}"
            )
    wanted = {each.name for each in outputs} or set(names)
    for value in [each for each in graph.outputs if each.name not in wanted]:
        graph.outputs.remove(value)
    for value in graph.outputs:
        if not isinstance(value.type, ir.TensorType):
            raise UnsupportedGraph(f"output {value.name!r} is no tensor")
        value.shape = None
    graphs.prune(graph)


def _check_repeatable(graph: ir.Graph) -> None:
    """Raises `UnsupportedGraph` for a node that draws random numbers or learns."""
    for node in RecursiveGraphIterator(graph):
        training = False
        if node.op_type == "BatchNormalization":
            training = bool(node.attributes.get_int("training_mode", 0))
        if node.op_type == "Dropout" and (said := graphs.input_at(node, 2)) is not None:
            value = graphs.constant(said)
            training = value is None or bool(np.any(value))
        if node.op_type in RANDOM or training:
            raise UnsupportedGraph(
                f"{describe(node)} draws random numbers or learns; export the network for inference"
            )


def _no_recurrence(graph: ir.Graph) -> str:
    users = {
        str(name): len({node for node, _ in value.uses() if node.op_type in _PRODUCTS})
        for name, value in graph.initializers.items()
    }
    name, times = max(users.items(), key=lambda each: each[1], default=("", 0))
    if times > 2:
        return (
            f"no RNN, LSTM or GRU operator, and weight {name!r} is used {times} times: a loop over "
            f"time that was unrolled into the graph; {_AS_OPERATOR}"
        )
    loops = [node for node in graph if node.op_type in ("Loop", "Scan")]
    if loops:
        return f"{describe(loops[0])} {mixing.LOOPS}"
    splits = [node for node in graph if node.op_type in ("Split", "SplitToSequence")]
    if splits:
        return (
            f"no RNN, LSTM or GRU operator, and {describe(splits[0])} may split the sequence into "
            f"steps, for a loop over time that was unrolled into the graph; {_AS_OPERATOR}"
        )
    return "no RNN, LSTM or GRU operator, and no inputs and outputs that could be its state"


def _wanted(graph: ir.Graph, seen: Sequence[Seen], outputs: Sequence[Output]) -> Mapping[str, Seen]:
    by_name = {each.name: each for each in seen}
    if outputs:
        return {each.name: by_name[each.name] for each in outputs}
    kept = {each.name: each for each in seen if not _is_final_state(graph, each.name)}
    if not kept:
        raise UnsupportedGraph("the graph gives nothing but its layers' final states")
    return kept


def _is_final_state(graph: ir.Graph, name: str) -> bool:
    """Whether an output holds only final states of recurrent operators, in any layout."""
    states = {
        operator.output(state.made)
        for operator in recurrent.find(graph)
        for state in operator.states
    }
    waiting: list[ir.Value | None] = [graphs.output_named(graph, name)]
    while waiting:
        each = waiting.pop()
        if each in states:
            continue
        maker = None if each is None else each.producer()
        if maker is None or maker.op_type not in _LAYOUT_ONLY:
            return False
        given = maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]
        waiting.extend(value for value in given if graphs.constant(value) is None)
    return True


def _loosen_time(model: ir.Model, value: ir.Value, input: InputSpec, found: Layout) -> None:
    """Opens the number of steps, in place.

    Raises `UnsupportedGraph` if an output changes for the exported number of steps, or if the graph
    does not run for another number.
    """
    assert found.fixed_time is not None
    rows, steps = found.fixed_batch or 2, found.fixed_time
    rng = np.random.default_rng(0)
    x = {
        time: {input.name: found.arrange(random_elements(input, rows, time, rng))}
        for time in (steps, steps + 3)
    }
    before = trace.run(model, x[steps], [str(each.name) for each in model.graph.outputs])
    graphs.open_axis(value, found.time, "time")
    loosen.loosen(
        model,
        element=input.name,
        axes=(found.batch, found.time),
        open_batch=found.fixed_batch is None,
        fixed=loosen.Sizes(rows, steps),
        other=loosen.Sizes(rows, steps + 3),
        feed=x[steps],
        other_feed=x[steps + 3],
    )
    try:
        after = trace.run(model, x[steps], list(before))
        trace.run(model, x[steps + 3], list(before))
    except RuntimeFailed as error:
        raise UnsupportedGraph(
            f"the graph was exported for {steps} steps, and does not run for {steps + 3}: {error}"
        ) from error
    for name, was in before.items():
        if not np.array_equal(was, after[name], equal_nan=True):
            raise UnsupportedGraph(
                f"the graph was exported for {steps} steps; made to run for others, its output "
                f"{name!r} changes"
            )
