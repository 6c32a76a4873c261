"""What is said in other operators is the same, and rounds each row by itself."""

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from elman_export.surgery.rounding import settle

ROWS, STEPS, FEATURES = 40, 9, 34
"""Features that no vector register holds evenly."""

X = np.random.default_rng(0).uniform(-4, 4, (ROWS, STEPS, FEATURES)).astype(np.float32)

Nodes = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
"""Nodes from x to y, and their constants by name."""


def node(operator: str, *given: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, given, ["y"], **attributes)


def between(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes in a row, each taking what the one before it gives."""
    for number, (one, two) in enumerate(pairwise(nodes)):
        one.output[0] = two.input[0] = f"between{number}"
    return list(nodes)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32) / np.float32(shape[-1])


FRAMES = np.array([0, 0, 2, FEATURES // 2])
BACK = np.array([0, 0, FEATURES])

CASES: dict[str, Nodes] = {
    "log": (between(node("Abs", "x"), node("Log", "")), {}),
    "softplus": ([node("Softplus", "x")], {}),
    "mish": ([node("Mish", "x")], {}),
    "elu": ([node("Elu", "x", alpha=0.7)], {}),
    "celu": ([node("Celu", "x", alpha=1.3)], {}),
    "selu": ([node("Selu", "x")], {}),
    "sine": ([node("Sin", "x")], {}),
    "cosine": ([node("Cos", "x")], {}),
    "sum": ([node("ReduceSum", "x", "axes", keepdims=0)], {"axes": np.array([-1])}),
    "mean": ([node("ReduceMean", "x", "axes")], {"axes": np.array([2])}),
    "mean of frames": (
        between(
            node("Reshape", "x", "frames"),
            node("ReduceMean", "", "axes"),
            node("Squeeze", "", "last"),
        ),
        {"frames": FRAMES, "axes": np.array([2, 3]), "last": np.array([3])},
    ),
    "sum of rows in frames": (
        between(node("Reshape", "x", "frames"), node("ReduceSum", "", "axes", keepdims=0)),
        {"frames": FRAMES, "axes": np.array([2])},
    ),
    "convolution of width 1": (
        between(
            node("Transpose", "x", perm=[0, 2, 1]),
            node("Conv", "", "w", "b"),
            node("Transpose", "", perm=[0, 2, 1]),
        ),
        {"w": weights(6, FEATURES, 1), "b": weights(6)},
    ),
    "einsum": (
        [node("Einsum", "x", "w", equation="bti,oi->bto")],
        {"w": weights(5, FEATURES)},
    ),
    "einsum of two axes": (
        between(node("Reshape", "x", "frames"), node("Einsum", "w", "", equation="pqo,btpq->bto")),
        {"frames": FRAMES, "w": weights(2, FEATURES // 2, 3)},
    ),
}
CASES["einsum of two axes"][0][1].input[:] = ["w", "between0"]


def made(nodes: Nodes) -> onnx.ModelProto:
    graph, constants = nodes
    any_rank = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(
            graph,
            "graph",
            [helper.make_tensor_value_info("x", 1, ["batch", "time", FEATURES])],
            [any_rank],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def running(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {"x": x})[0]
        return found

    return run


def company_matters(run: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether an element's result depends on the rows and steps beside it."""
    alone = np.stack(
        [
            np.stack([run(X[row : row + 1, step : step + 1])[0, 0] for step in range(STEPS)])
            for row in range(ROWS)
        ]
    )
    return any(
        not np.array_equal(run(X[:rows, :steps]), alone[:rows, :steps])
        for rows, steps in product((1, 2, 3, 4, 5, 8, 17, 40), (1, 2, 3, 5, 8, 9))
    )


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_replaced_by_what_rounds_each_row_by_itself(case: str) -> None:
    model = made(CASES[case])
    before = running(model)
    after = running(settle(model))
    np.testing.assert_allclose(after(X), before(X), rtol=2e-6, atol=5e-6)
    assert not company_matters(after)


@pytest.mark.parametrize("kind", ["double", "float16"])
@pytest.mark.parametrize(
    "operator", ["Log", "Softplus", "Mish", "Elu", "Celu", "Selu", "Sin", "Cos"]
)
def test_an_operator_of_another_type_is_replaced_too(operator: str, kind: str) -> None:
    to = {"double": onnx.TensorProto.DOUBLE, "float16": onnx.TensorProto.FLOAT16}[kind]
    model = made(
        (
            between(
                node("Abs", "x"),
                node("Cast", "", to=to),
                node(operator, ""),
                node("Cast", "", to=onnx.TensorProto.FLOAT),
            ),
            {},
        )
    )
    after = running(settle(model))
    number = torch.from_numpy(np.abs(X)).to(getattr(torch, kind))
    same = getattr(torch, operator.lower(), None) or getattr(F, operator.lower())
    rounding = {"double": 2e-6, "float16": 2e-3}[kind]
    np.testing.assert_allclose(after(X), same(number).float(), rtol=rounding, atol=rounding)
    assert not company_matters(after)


@pytest.mark.parametrize("case", ["log", "softplus", "elu", "sine", "sum", "mean of frames"])
def test_there_is_a_reason_to(case: str) -> None:
    # When this fails, ONNX Runtime has changed, and its own operator may do.
    assert company_matters(running(made(CASES[case])))


def test_limits_are_kept() -> None:
    x = np.zeros((1, 1, FEATURES), np.float32)
    x[0, 0, :6] = [0, 1e-30, 1e30, 88, -88, -1e30]
    with np.errstate(divide="ignore"):
        expected = np.log(np.abs(x))
    model = settle(made(CASES["log"]))
    np.testing.assert_allclose(running(model)(x), expected, rtol=1e-6)
    for case, value in (("softplus", [88.0, 0.0, 1e30, 0.0]), ("elu", [88.0, -0.7, 1e30, -0.7])):
        model = settle(made(CASES[case]))
        found = running(model)(x)[0, 0]
        np.testing.assert_allclose(found[[3, 4, 2, 5]], value, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("operator", "constants"),
    [
        (node("ReduceSum", "x", "axes", keepdims=0), {"axes": np.array([1])}),
        (node("ReduceMean", "x", "axes"), {"axes": np.array([0])}),
        (node("ReduceSum", "x", "axes"), {"axes": np.array([1, 2])}),
        (node("Einsum", "x", "x", equation="bti,bti->bt"), {}),
        (node("Conv", "x", "w", pads=[1, 1]), {"w": weights(2, STEPS, 3)}),
    ],
    ids=["a sum over time", "a mean over rows", "a sum of both", "an einsum of x", "a convolution"],
)
def test_what_is_not_known_is_left_as_it_is(
    operator: onnx.NodeProto, constants: dict[str, np.ndarray]
) -> None:
    model = settle(made(([operator], constants)))
    assert [each.op_type for each in model.graph.node] == [operator.op_type]
