"""Operators that mix the steps of a sequence are refused, naming the node and what it does."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.export.surgery.conftest import Refused
from tests.export.surgery.graphs import (
    HIDDEN,
    OUT,
    Graph,
    behind_a_layer,
    channels_over_time,
)


def _behind(operator: str, *more: str, **rest: Any) -> Graph:
    """A graph whose last node works on `[batch, time, hidden]`."""
    graph, hidden = behind_a_layer()
    graph.add(operator, [hidden, *more], "y", name="culprit", **rest)
    graph.output("y")
    return graph


def test_a_convolution_over_time(refused: Refused) -> None:
    graph, channels = channels_over_time()
    kernel = graph.weight(OUT, HIDDEN, 3)
    graph.add("Conv", [channels, kernel], "y", name="smooth", pads=[1, 1])
    graph.output("y")
    message = refused(graph)
    assert message.startswith("Conv 'smooth' convolves over time (3 steps at once)")


@pytest.mark.parametrize(
    ("operator", "options"), [("MaxPool", {}), ("AveragePool", {}), ("LpPool", {})]
)
def test_pooling_over_a_window_of_time(
    operator: str, options: dict[str, Any], refused: Refused
) -> None:
    graph, channels = channels_over_time()
    pooled = graph.add(operator, [channels], name="pool", kernel_shape=[3], pads=[1, 1], **options)
    graph.add("Transpose", [pooled], "y", perm=[0, 2, 1])
    graph.output("y")
    assert refused(graph).startswith(f"{operator} 'pool' pools over time")


def test_values_that_are_seldom_another_step_s(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    length = graph.add("Gather", [graph.add("Shape", ["x"]), graph.constant(np.array(1))])
    numbers = graph.add("Range", [graph.constant(np.array(0)), length, graph.constant(np.array(1))])
    own = graph.add("Unsqueeze", [numbers, graph.constant(np.array([1]))])
    rare = graph.add("Greater", [hidden, graph.constant(np.float32(0.99999))])
    places = graph.add("Where", [rare, graph.constant(np.array(0)), own])
    graph.add("GatherElements", [hidden, places], "y", name="pick", axis=1)
    graph.output("y")
    assert refused(graph) == (
        "GatherElements 'pick' picks by values of the sequence, so it may pick other steps"
    )


def test_an_operator_that_nothing_is_known_of(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    graph.add("Trilu", [hidden], "y", name="odd")
    graph.output("y")
    assert refused(graph) == (
        "Trilu 'odd' may mix the steps: it is no operator that is known to leave each by itself"
    )


@pytest.mark.parametrize("equation", ["btf,btf", "btf,btf->bf", "bt...,bt...->b...", "...tf,...tf"])
def test_sums_over_the_steps_in_einstein_s_notation(equation: str, refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    graph.add("Einsum", [hidden, hidden], "y", name="sum", equation=equation)
    graph.output("y")
    assert refused(graph).startswith("Einsum 'sum' sums over the steps")


def test_a_choice_that_depends_on_the_sequence(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    value = hidden
    for axis, index in ((1, -1), (1, 0), (0, 0)):
        value = graph.add("Gather", [value, graph.constant(np.array(index))], axis=axis)
    condition = graph.add("Greater", [value, graph.constant(np.float32(0.99999))])
    info = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(operator, [hidden], ["made"])], operator, [], [info])
        for operator in ("Neg", "Identity")
    ]
    then, other = branches
    graph.add("If", [condition], "y", name="choice", then_branch=then, else_branch=other)
    graph.output("y")
    assert refused(graph).startswith("If 'choice' chooses by values of the sequence")


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
def test_pooling_over_all_of_time(operator: str, refused: Refused) -> None:
    message = refused(_behind(operator, axes=[1], keepdims=0))
    assert message == f"{operator} 'culprit' pools over time"


def test_a_global_pool(refused: Refused) -> None:
    graph, channels = channels_over_time()
    graph.add("GlobalAveragePool", [channels], "y", name="pool")
    graph.output("y")
    assert refused(graph) == "GlobalAveragePool 'pool' pools over time"


def test_attention(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    keys = graph.add("Transpose", [hidden], perm=[0, 2, 1])
    scores = graph.add("MatMul", [hidden, keys], name="scores")
    weights = graph.add("Softmax", [scores], axis=-1)
    graph.add("MatMul", [weights, hidden], "y")
    graph.output("y")
    assert (
        refused(graph) == "MatMul 'scores' compares every step with every other, as attention does"
    )


def test_a_learned_attention_over_the_outputs(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    scores = graph.add("MatMul", [hidden, graph.weight(HIDDEN, 1)])
    graph.add("Softmax", [scores], name="weigh", axis=1)
    turned = graph.add("Transpose", [graph.nodes[-1].output[0]], perm=[0, 2, 1])
    graph.add("MatMul", [turned, hidden], "y")
    graph.output("y")
    assert refused(graph).startswith("Softmax 'weigh' weighs the steps against each other")


@pytest.mark.parametrize(
    ("operator", "options"),
    [("LayerNormalization", {"axis": 1}), ("LpNormalization", {"axis": 1})],
)
def test_normalisation_over_time(operator: str, options: dict[str, Any], refused: Refused) -> None:
    more: list[str] = []
    graph, hidden = behind_a_layer()
    if operator == "LayerNormalization":
        more = [graph.constant(np.ones(1, np.float32))]
    graph.add(operator, [hidden, *more], "y", name="norm", **options)
    graph.output("y")
    assert refused(graph) == f"{operator} 'norm' normalises over time"


def test_instance_normalisation(refused: Refused) -> None:
    graph, channels = channels_over_time()
    ones = [graph.constant(np.ones(HIDDEN, np.float32)) for _ in range(2)]
    graph.add("InstanceNormalization", [channels, *ones], "y", name="norm")
    graph.output("y")
    assert refused(graph) == "InstanceNormalization 'norm' normalises over time"


def test_running_sums(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    graph.add("CumSum", [hidden, graph.constant(np.array(1))], "y", name="sum")
    graph.output("y")
    assert refused(graph).startswith("CumSum 'sum' runs a total over time")
