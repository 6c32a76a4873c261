"""Lifts states: the initial and final states of recurrent operators become inputs and outputs.

An operator may stand in the main graph or in a branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import graphs, recurrent, trace
from elman_export.surgery.graphs import Branch, Builder, branches, describe
from elman_export.surgery.initial import sources
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
    model: ir.Model, lengths: ir.Value, feeds: Sequence[Arrays], contexts: Sequence[str] = ()
) -> list[Lifted]:
    """Lifts the states of every recurrent operator, and makes every operator read `lengths`.

    Initial states may be computed from `contexts`, inputs given once per session.

    `feeds` are inputs of the graph before lifting, with different sequences. Several feeds have
    more than one row, where the graph allows it. Runs on these feeds show the operators' initial
    states.

    Raises `UnsupportedGraph` for initial states that depend on the sequence.
    """
    builder = Builder(model)
    operators = recurrent.find(model.graph)
    names = list(recurrent.names(operators))
    computed = {
        (index, state.part): str(value.name)
        for index, operator in enumerate(operators)
        for state in operator.states
        if (value := graphs.input_at(operator.node, state.given)) is not None
        and not sources(value).isdisjoint(contexts)
    }
    initial = {
        (index, state.part): _initial(model, index, state, feeds)
        for index, operator in enumerate(operators)
        for state in operator.states
        if (index, state.part) not in computed
    }
    lifted, inputs, outputs = [], [], []
    for index, (name, operator) in enumerate(zip(names, operators, strict=True)):
        for state in operator.states:
            taken = builder.fresh(f"{name}.{state.part}")
            given = builder.fresh(f"{name}.{state.part}.next")
            dims = (1, "batch", operator.hidden_size)
            inputs.append(graphs.typed_value(taken, np.float32, dims))
            outputs.append(_carry(builder, operator, state, inputs[-1], given))
            graphs.set_type(outputs[-1], np.float32, dims)
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
    model.graph.inputs.extend(inputs)
    model.graph.outputs.extend(outputs)
    return lifted


def seen(model: ir.Model, index: int, given: int, feed: Arrays) -> np.ndarray:
    """The value of input `given` of recurrent operator `index`, wherever the operator stands.

    Empty if the operator stands in a branch not taken.
    """
    copy = model.clone()
    operator = recurrent.find(copy.graph)[index]
    value = graphs.input_at(operator.node, given)
    assert value is not None
    builder = Builder(copy)

    def nothing(branch: Branch) -> ir.Value:
        empty = ir.Tensor(np.zeros(0, np.float32))
        return builder.within(branch.graph).node("Constant", [], value=empty)

    name = str(_pass_out(builder, operator.branches, value, nothing).name)
    return trace.run(copy, feed, [name])[name]


def _carry(
    builder: Builder, operator: Recurrent, state: State, taken: ir.Value, given: str
) -> ir.Value:
    operator.set_input(state.given, taken)
    made = operator.output(state.made)
    if made is None:
        made = graphs.add_output(operator.node, state.made, builder.fresh(f"{given}/made"))

    def unchanged(branch: Branch) -> ir.Value:
        return builder.within(branch.graph).node("Identity", [taken])

    return builder.node("Identity", [_pass_out(builder, operator.branches, made, unchanged)], given)


def _pass_out(
    builder: Builder,
    inside: Sequence[Branch],
    value: ir.Value,
    otherwise: Callable[[Branch], ir.Value],
) -> ir.Value:
    """Makes a value of a nested branch available in the main graph; returns the outer value.

    `otherwise` makes a replacement value for runs that take another branch.
    """
    for branch in reversed(inside):
        for each in branches(branch.node):
            if each.attribute == branch.attribute:
                # A branch must make its outputs itself; a value from outside is not allowed.
                out = builder.within(each.graph).node("Identity", [value])
            else:
                out = otherwise(each)
            graphs.set_type(out, np.float32)
            each.graph.outputs.append(out)
        name = builder.fresh(f"{value.name}/outside")
        value = graphs.add_output(branch.node, len(branch.node.outputs), name)
    return value


def _initial(
    model: ir.Model, index: int, state: State, feeds: Sequence[Arrays]
) -> np.ndarray | None:
    """The initial state of an operator: `[1, hidden]`, or None for zeros."""
    operator = recurrent.find(model.graph)[index]
    if graphs.input_at(operator.node, state.given) is None:
        return None
    rows: list[np.ndarray] = []
    for feed in feeds:
        value = seen(model, index, state.given, feed)
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
