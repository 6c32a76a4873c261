"""What a graph does to the process that runs it stays in that process."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export import sandbox
from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.interface import features
from elman_export.original.graphfile import export_graph
from tests.stepmodels import leaky

MEMORY = 2**30


# What a child may be told to do; found by their names.


def add(one: int, other: int = 0) -> int:
    return one + other


def crash() -> Any:
    return ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def refuse() -> None:
    raise UnsupportedGraph("no")


def stumble() -> float:
    return 1 / 0


def fill(nbytes: int) -> int:
    return int(np.ones(nbytes, np.uint8).sum())


def test_what_is_returned_comes_back() -> None:
    assert sandbox.run(add, 1, other=2) == 3


def test_what_is_raised_comes_back() -> None:
    with pytest.raises(UnsupportedGraph, match=r"^no$"):
        sandbox.run(refuse)


def test_a_bug_is_told_in_full() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        sandbox.run(stumble)


@pytest.mark.parametrize(("ending", "how"), [(crash, "SIGSEGV"), (leave, "exit code 3")])
def test_a_crash_is_one_line(ending: Any, how: str) -> None:
    with pytest.raises(ExportError, match=how) as caught:
        sandbox.run(ending)
    assert "\n" not in str(caught.value)


def test_memory_is_bounded() -> None:
    assert sandbox.run(fill, MEMORY // 2, memory=MEMORY) == MEMORY // 2
    with pytest.raises(ExportError, match="asks for more than 1,024 MiB of memory"):
        sandbox.run(fill, 2 * MEMORY, memory=MEMORY)


def test_a_graph_that_fills_the_memory_is_one_line_and_no_file(tmp_path: Path) -> None:
    model, _ = leaky()
    # 2**33 numbers, added up when the graph is run or even before.
    many = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["x0"]),
    ]
    for node in model.graph.node:
        node.input[:] = ["x0" if name == "x" else name for name in node.input]
    nodes = [*many, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**33]), "many"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError) as caught:
        sandbox.run(export_graph, tmp_path / "m.onnx", tmp_path / "out.onnx", memory=MEMORY)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_an_ordinary_export_comes_out_the_same(tmp_path: Path) -> None:
    model, _ = leaky(width=3)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.save(model, tmp_path / "m.onnx")
    inside = export_graph(tmp_path / "m.onnx", tmp_path / "inside.onnx", input=features(3))
    started = time.perf_counter()
    outside = sandbox.run(
        export_graph, tmp_path / "m.onnx", tmp_path / "outside.onnx", input=features(3)
    )
    assert time.perf_counter() - started < 10
    assert outside.spec == inside.spec
    assert outside.fingerprint == inside.fingerprint
    assert (tmp_path / "outside.onnx").read_bytes() == (tmp_path / "inside.onnx").read_bytes()
