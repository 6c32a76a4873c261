"""Which graphs take longer for some numbers than for others of the same shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_server.model import modelfile
from elman_server.model.graph import onnxgraph, onnxproto
from elman_server.model.graph.datadependence import data_dependent
from elman_server.model.repository import BUNDLED
from tests.stepmodels import Shape, caption, leaky, lstm, save, save_conditioned

node = helper.make_node


def value(name: str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None)


def constant(name: str, number: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(number), name)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes, "g", [value(name) for name in inputs], [value(name) for name in outputs], constants
    )


def found(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> str:
    """What is found in a graph that is fed `x`."""
    model = helper.make_model(graph(nodes, ["x"], ["y"], constants), functions=functions)
    return in_file(model.SerializeToString())


def in_file(model: bytes) -> str:
    return data_dependent(onnxgraph.read(onnxproto.parse(model)), ["x"])


TURNS = graph(
    [node("Identity", ["go"], ["go_on"]), node("Add", ["was", "x"], ["is"])],
    ["i", "go", "was"],
    ["go_on", "is"],
)
"""A body that turns as often as it was told to."""
UNTIL = graph(
    [node("Less", ["was", "x"], ["go_on"]), node("Add", ["was", "one"], ["is"])],
    ["i", "go", "was"],
    ["go_on", "is"],
)
"""A body that turns until it has counted to x."""
COUNTED = graph(
    [node("Less", ["was", "limit"], ["go_on"]), node("Add", ["was", "one"], ["is"])],
    ["i", "go", "was"],
    ["go_on", "is"],
)
"""A body that turns until it has counted to what is no element."""
ONE = constant("one", 1.0)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Loop", ["x", "", "x"], ["y"], body=TURNS)], []),
        ([node("Cast", ["x"], ["n"], to=7), node("Loop", ["n", "", "x"], ["y"], body=TURNS)], []),
        ([node("Loop", ["", "x", "x"], ["y"], body=TURNS)], []),
        ([node("Loop", ["", "", "one"], ["y"], body=UNTIL)], [ONE]),
        ([node("If", ["x"], ["y"], then_branch=graph([]), else_branch=graph([]))], []),
        ([node("Expand", ["one", "x"], ["y"])], [ONE]),
        ([node("ConstantOfShape", ["x"], ["y"])], []),
        ([node("Range", ["one", "x", "one"], ["y"])], [ONE]),
        ([node("Tile", ["one", "x"], ["y"])], [ONE]),
        ([node("Reshape", ["one", "x"], ["y"])], [ONE]),
        ([node("Slice", ["x", "one", "x"], ["y"])], [ONE]),
        ([node("Pad", ["one", "x"], ["y"])], [ONE]),
        ([node("ReduceSum", ["one", "x"], ["y"])], [ONE]),
        ([node("NonZero", ["x"], ["y"])], []),
        ([node("Compress", ["one", "x"], ["y"])], [ONE]),
        ([node("Unique", ["x"], ["y"])], []),
        # Its size is that of something whose size is that of the numbers.
        ([node("NonZero", ["x"], ["n"]), node("Shape", ["n"], ["y"])], []),
        ([node("Mod", ["x", "one"], ["y"], fmod=1)], [ONE]),
        ([node("Strange", ["x"], ["y"], domain="com.example")], []),
        ([node("BeamSearch", ["x"], ["y"], domain="com.microsoft")], []),
        # Inside of what is itself harmless.
        (
            [
                node(
                    "Loop",
                    ["one", "", "x"],
                    ["y"],
                    body=graph(
                        [node("NonZero", ["was"], ["is"]), node("Identity", ["go"], ["go_on"])],
                        ["i", "go", "was"],
                        ["go_on", "is"],
                    ),
                )
            ],
            [ONE],
        ),
    ],
    ids=lambda given: " ".join(n.op_type for n in given if isinstance(n, onnx.NodeProto)),
)
def test_what_turns_or_grows_with_the_numbers_is_found(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> None:
    assert found(nodes, constants)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("MatMul", ["x", "one"], ["y"])], [ONE]),
        ([node("Loop", ["one", "", "x"], ["y"], body=TURNS)], [ONE]),
        (
            [node("Loop", ["", "", "one"], ["y"], body=COUNTED)],
            [ONE, constant("limit", 5.0)],
        ),
        # As many turns as there are rows.
        (
            [
                node("Shape", ["x"], ["rows"]),
                node("Loop", ["rows", "", "x"], ["y"], body=TURNS),
            ],
            [],
        ),
        ([node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["y"])], []),
        ([node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])], []),
        ([node("Slice", ["x", "one", "one"], ["y"])], [ONE]),
        (
            [node("If", ["one"], ["y"], then_branch=graph([]), else_branch=graph([]))],
            [ONE],
        ),
        (
            [
                node(
                    "Scan",
                    ["x", "x"],
                    ["y", "z"],
                    num_scan_inputs=1,
                    body=graph(
                        [node("Add", ["was", "at"], ["is"]), node("Identity", ["is"], ["z"])],
                        ["was", "at"],
                        ["is", "z"],
                    ),
                )
            ],
            [],
        ),
        ([node("MatMulIntegerToFloat", ["x", "one"], ["y"], domain="com.microsoft")], [ONE]),
    ],
    ids=lambda given: " ".join(n.op_type for n in given if isinstance(n, onnx.NodeProto)),
)
def test_what_takes_as_long_for_all_numbers_is_not(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> None:
    assert found(nodes, constants) == ""


def test_it_is_named() -> None:
    assert found([node("NonZero", ["x"], ["y"], name="find")]) == "NonZero 'find'"


def test_a_graph_that_is_written_in_two_parts_is_one() -> None:
    """As it is to ONNX Runtime."""
    parts = [
        helper.make_model(graph([node("NonZero", ["x"], ["n"])], ["x"], ["y"])),
        helper.make_model(graph([node("Cast", ["n"], ["y"], to=1)], [], [])),
    ]
    assert in_file(b"".join(part.SerializeToString() for part in parts)) == "NonZero"


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], list(nodes), opsets)


def test_functions_of_the_file_are_looked_into() -> None:
    nodes = [node("F", ["x"], ["y"], domain="own")]
    assert found(nodes, functions=[function("F", node("Relu", ["a"], ["b"]))]) == ""
    assert found(nodes, functions=[function("F", node("NonZero", ["a"], ["b"]))]) == "NonZero"


def test_a_function_that_calls_itself_has_an_end() -> None:
    itself = function("F", node("F", ["a"], ["b"], domain="own"))
    assert found([node("F", ["x"], ["y"], domain="own")], functions=[itself])


def test_functions_that_call_others_twice_each_have_an_end() -> None:
    twice = [
        function(
            f"F{depth}",
            node(f"F{depth + 1}", ["a"], ["c"], domain="own"),
            node(f"F{depth + 1}", ["c"], ["b"], domain="own"),
        )
        for depth in range(40)
    ]
    last = function("F40", node("Relu", ["a"], ["b"]))
    assert found([node("F0", ["x"], ["y"], domain="own")], functions=[*twice, last])


def test_a_step_model_of_recurrent_layers_is_none(tmp_path: Path) -> None:
    for number, built in enumerate(
        [lstm(Shape(layers=2)), lstm(Shape(time_axis=False, lengths=False)), leaky()]
    ):
        path = save(*built, tmp_path / str(number) / "model.onnx")
        assert modelfile.read(path).data_dependent == ""
    conditioned = save_conditioned(caption(), tmp_path / "caption" / "model.onnx")
    assert modelfile.read(conditioned).data_dependent == ""


def test_the_bundled_models_are_none() -> None:
    bundled = sorted(BUNDLED.glob("*/*/model.onnx"))
    assert {modelfile.read(path).data_dependent for path in bundled} == {""}
    assert bundled
