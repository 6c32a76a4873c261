"""Step models that do not quite do what they seem to."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from elman_server.model.spec import ContextSpec, ModelSpec, StateSpec
from tests.stepmodels import Conditioned, Shape, leaky, lstm, tilted

Built = tuple[onnx.ModelProto, ModelSpec]


def insert(built: Built, place: int, node: onnx.NodeProto) -> None:
    built[0].graph.node.insert(place, node)


def constant(built: Built, name: str, *values: int) -> None:
    built[0].graph.initializer.append(numpy_helper.from_array(np.array(values), name))


def blind_to_lengths() -> Built:
    """Takes lengths, but computes every row as if it were full."""
    built = lstm(Shape())
    for node in built[0].graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""
    return built


def one_row_only() -> Built:
    built = leaky(width=3)
    constant(built, "one row", 1, 3)
    [first] = [node for node in built[0].graph.node if "x" in node.input]
    first.input[list(first.input).index("x")] = "x one"
    insert(built, 0, helper.make_node("Reshape", ["x", "one row"], ["x one"]))
    return built


def one_row_out() -> Built:
    """Gives one prediction, however many rows it is given."""
    built = leaky(width=3)
    [last] = [node for node in built[0].graph.node if "y" in node.output]
    last.output[0] = "y all"
    insert(
        built,
        len(built[0].graph.node),
        helper.make_node("ReduceSum", ["y all", "batch"], ["y"], keepdims=1),
    )
    return built


def one_state_out() -> Built:
    """Gives one state, however many rows it is given."""
    built = leaky(width=3)
    [last] = [node for node in built[0].graph.node if "h_next" in node.output]
    last.output[0] = "h all"
    nodes = built[0].graph.node
    nodes[-1].input[0] = "h all"
    insert(built, len(nodes), helper.make_node("ReduceSum", ["h all", "batch"], ["h_next"]))
    return built


def one_element_only() -> Built:
    """Has a time axis, but computes only one element a step."""
    built = lstm(Shape())
    constant(built, "one step", 1, -1, 8)
    [lstm_node] = [node for node in built[0].graph.node if node.op_type == "LSTM"]
    lstm_node.input[0] = "x one"
    place = list(built[0].graph.node).index(lstm_node)
    insert(built, place, helper.make_node("Reshape", ["x", "one step"], ["x one"]))
    return built


def last_element_only() -> Built:
    """Gives one prediction for a whole chunk."""
    built = lstm(Shape())
    [head] = [node for node in built[0].graph.node if node.op_type == "MatMul"]
    head.output[0] = "all next"
    constant(built, "last", -1)
    constant(built, "time", 1)
    constant(built, "end", 2**31)
    insert(
        built,
        len(built[0].graph.node),
        helper.make_node("Slice", ["all next", "last", "end", "time"], ["next"]),
    )
    return built


def beginners_that_mix() -> Conditioned:
    """Each row's first state holds the sum of all rows that begin with it."""
    model, spec, initial = tilted()
    initial.graph.node[0].output[0] = "twice"
    initial.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch"))
    initial.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["start", "batch"], ["all"], keepdims=1),
            helper.make_node("Add", ["twice", "all"], ["h"]),
        ]
    )
    return model, spec, initial


def beginners_one_by_one() -> Conditioned:
    """The initial-state network takes one row only."""
    model, spec, initial = tilted()
    initial.graph.node[0].input[0] = "one start"
    initial.graph.initializer.append(numpy_helper.from_array(np.array([1, 1]), "one row"))
    initial.graph.node.insert(0, helper.make_node("Reshape", ["start", "one row"], ["one start"]))
    return model, spec, initial


def picky_steps(*, width: int = 3) -> Built:
    """Each step adds row `tilt` of a table of two, and fails on other tilts."""
    model, spec, _ = tilted(width=width)
    table = np.array([[0.0] * width, [10.0] * width], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    tilt = next(value for value in model.graph.input if value.name == "tilt")
    tilt.CopyFrom(helper.make_tensor_value_info("tilt", onnx.TensorProto.INT64, ["batch"]))
    adding = next(node for node in model.graph.node if "tilt" in node.input)
    adding.input[1] = "chosen"
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "tilt"], ["chosen"]))
    context = ContextSpec(name="tilt", dtype="int64", input="tilt")
    return model, replace(spec, contexts=(context,), initialized=())


def stacked() -> Built:
    """Two states: `h`, `[2, batch, 1]`, sums up as that of `leaky` does, in both its layers, and
    the second one twice as much; `kept` goes through the graph as it is. `y` is all of it."""
    info, float32 = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    stack: list[str | int | None] = [2, "batch", 1]
    flat: list[str | int | None] = ["batch", 1]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["h", "half"], ["decayed"]),
            helper.make_node("Mul", ["x", "weights"], ["weighted"]),
            helper.make_node("Add", ["decayed", "weighted"], ["h_next"]),
            helper.make_node("ReduceSum", ["h_next", "layers"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "kept"], ["y"]),
            helper.make_node("Identity", ["kept"], ["kept_next"]),
        ],
        "stacked",
        [info("x", float32, flat), info("h", float32, stack), info("kept", float32, flat)],
        [
            info("y", float32, flat),
            info("h_next", float32, stack),
            info("kept_next", float32, flat),
        ],
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array([[[1]], [[2]]], np.float32), "weights"),
            numpy_helper.from_array(np.array([0]), "layers"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    h = StateSpec(name="h", input="h", output="h_next", dtype="float32", shape=(2, 1), batch_axis=1)
    kept = StateSpec(
        name="kept",
        input="kept",
        output="kept_next",
        dtype="float32",
        shape=(1,),
        batch_axis=0,
        initial=(1000,),
    )
    return model, replace(leaky()[1], states=(h, kept))


def branching() -> Built:
    """The first of `leaky`'s numbers, in a subgraph: `y` and `h_next` come out of an If."""
    built = leaky(width=1)
    graph = built[0].graph
    inner = [node for node in graph.node]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("y", "h_next")]
    branch = helper.make_graph(inner, "branch", [], outputs)
    del graph.node[:]
    graph.initializer.append(numpy_helper.from_array(np.array(0), "axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(-1), "minus one"))
    graph.node.extend(
        [
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("ReduceMin", ["sizes"], ["least"], keepdims=0),
            helper.make_node("Greater", ["least", "minus one"], ["always"]),
            helper.make_node(
                "If", ["always"], ["y", "h_next"], then_branch=branch, else_branch=branch
            ),
        ]
    )
    return built
