"""Lifts states: the initial and final states of recurrent operators become inputs and outputs.

An operator may stand in the main graph or in a branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import recurrent, trace
from elman_export.surgery.editor import Branch, Editor, branches, inputs
from elman_export.surgery.initial import sources
from elman_export.surgery.onnxnodes import describe
from elman_export.surgery.recurrent import Recurrent, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """A state as an input and an output of the graph, each `[1, batch, hidden]`."""

    name: str
    input: str
    output: str
    hidden_size: int
    initial: np.ndarray | None
    """`[1, hidden]`, or None for zeros."""
    computed: str | None
    """The tensor, in the graph before lifting, with the initial state computed from contexts."""


def lift(
    editor: Editor, lengths: str, feeds: Sequence[Arrays], contexts: Sequence[str] = ()
) -> list[Lifted]:
    """Lifts the states of every recurrent operator, and makes every operator read `lengths`.

    Initial states may be computed from `contexts`, inputs given once per session.

    `feeds` are inputs of the graph before lifting, with different sequences. Several feeds have
    more than one row, where the graph allows it. Runs on these feeds show the operators' initial
    states.

    Raises `UnsupportedGraph` for initial states that depend on the sequence.
    """
    operators = recurrent.find(editor.graph)
    names = list(recurrent.names(operators))
    computed = {
        (index, state.part): name
        for index, operator in enumerate(operators)
        for state in operator.states
        if (name := inputs(operator.node, state.given))
        and not sources(editor.graph, name).isdisjoint(contexts)
    }
    initial = {
        (index, state.part): _initial(editor.model, index, state, feeds)
        for index, operator in enumerate(operators)
        for state in operator.states
        if (index, state.part) not in computed
    }
    lifted = []
    for index, (name, operator) in enumerate(zip(names, operators, strict=True)):
        for state in operator.states:
            taken = editor.fresh(f"{name}.{state.part}")
            given = editor.fresh(f"{name}.{state.part}.next")
            _carry(editor, operator, state, taken, given)
            lifted.append(
                Lifted(
                    name=taken,
                    input=taken,
                    output=given,
                    hidden_size=operator.hidden_size,
                    initial=initial.get((index, state.part)),
                    computed=computed.get((index, state.part)),
                )
            )
        operator.set_lengths(lengths)
    for each in lifted:
        dims: list[str | int | None] = [1, "batch", each.hidden_size]
        editor.graph.input.append(
            helper.make_tensor_value_info(each.input, TensorProto.FLOAT, dims)
        )
        editor.graph.output.append(
            helper.make_tensor_value_info(each.output, TensorProto.FLOAT, dims)
        )
    return lifted


def seen(model: onnx.ModelProto, index: int, name: str, feed: Arrays) -> np.ndarray:
    """The value of a tensor read by recurrent operator `index`, wherever the operator stands.

    Empty if the operator stands in a branch not taken.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    editor = Editor(copy)
    place = recurrent.find(copy.graph)[index].place
    shown = _pass_out(editor, place.branches, name, _nothing)
    return trace.run(copy, feed, [shown])[shown]


def _carry(editor: Editor, operator: Recurrent, state: State, taken: str, given: str) -> None:
    operator.set_input(state.given, taken)
    made = operator.output(state.made)
    if not made:
        made = editor.fresh(f"{given}/made")
        operator.set_output(state.made, made)

    def unchanged(_: Branch) -> onnx.NodeProto:
        return helper.make_node("Identity", [taken], [editor.fresh(f"{taken}/unchanged")])

    outside = _pass_out(editor, operator.branches, made, unchanged)
    editor.node("Identity", [outside], given)


def _pass_out(
    editor: Editor,
    inside: Sequence[Branch],
    name: str,
    otherwise: Callable[[Branch], onnx.NodeProto],
) -> str:
    """Makes a tensor of a nested branch available in the main graph; returns its name there.

    `otherwise` makes the node for a replacement value in runs that take another branch.
    """
    for branch in reversed(inside):
        for each in branches(branch.node):
            if each.attribute == branch.attribute:
                # A branch must make its outputs itself; a name from outside is not allowed.
                out = editor.fresh(f"{name}/out")
                node = helper.make_node("Identity", [name], [out])
            else:
                node = otherwise(each)
                out = node.output[0]
            each.graph.node.append(node)
            each.graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, None))
        name = editor.fresh(f"{name}/outside")
        branch.node.output.append(name)
    return name


def _nothing(branch: Branch) -> onnx.NodeProto:
    name = f"{branch.node.output[0]}/{branch.attribute}/{len(branch.graph.output)}/nothing"
    empty = numpy_helper.from_array(np.zeros(0, np.float32))
    return helper.make_node("Constant", [], [name], value=empty)


def _initial(
    model: onnx.ModelProto, index: int, state: State, feeds: Sequence[Arrays]
) -> np.ndarray | None:
    """The initial state of an operator: `[1, hidden]`, or None for zeros."""
    operator = recurrent.find(model.graph)[index]
    name = inputs(operator.node, state.given)
    if not name:
        return None
    rows: list[np.ndarray] = []
    for feed in feeds:
        value = seen(model, index, name, feed)
        if value.size:
            rows.extend(np.moveaxis(value, 1, 0))
    if not rows:
        raise UnsupportedGraph(
            f"{describe(operator.node)} did not run on any sequence that was tried, so what it "
            "starts from can't be told"
        )
    if any(not np.array_equal(row, rows[0]) for row in rows):
        raise UnsupportedGraph(
            f"{describe(operator.node)} starts from a state ({state.part}) that depends on the "
            "sequence; a stream's first state is known before its first element"
        )
    return rows[0] if rows[0].any() else None
