"""Inputs that a session is given once: at every step, or to make its first state of."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.original.graphfile import export_graph
from elman_export.proof.stepmodel import StepModel
from elman_export.writer import Report
from elman_server.model import modelfile
from tests.export.surgery.graphs import (
    FEATURES,
    HIDDEN,
    OUT,
    TIME,
    Graph,
    batch_major,
    linear,
    time_major,
)

CONTEXT = 3


def _first_state(graph: Graph, context: str) -> str:
    """`tanh(linear(context))`, `[1, batch, hidden]`."""
    flat = graph.add("Tanh", [linear(graph, context, "", size=CONTEXT, out=HIDDEN)])
    return graph.add("Unsqueeze", [flat, graph.constant(np.array([0]))])


def _at_every_step(graph: Graph, x: str, context: str) -> str:
    """`x` with the context behind each of its elements."""
    row = graph.add("Unsqueeze", [context, graph.constant(np.array([1]))])
    length = graph.add("Gather", [graph.add("Shape", [x]), graph.constant(np.array([1]))])
    one = graph.constant(np.array([1]))
    sizes = graph.add("Concat", [one, length, one], axis=0)
    return graph.add("Concat", [x, graph.add("Expand", [row, sizes])], axis=2)


def _graph(*, first: bool, every: bool, batch: int | str = "batch") -> Graph:
    graph = Graph()
    graph.input("x", [batch, "time", FEATURES])
    graph.input("image", [batch, CONTEXT])
    x = _at_every_step(graph, "x", "image") if every else "x"
    h = _first_state(graph, "image") if first else ""
    width = FEATURES + CONTEXT if every else FEATURES
    y = graph.recurrent("GRU", time_major(graph, x), width, h=h)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    return graph


def _export(graph: Graph, folder: Path, **rest: Any) -> Report:
    path = graph.save(folder / "whole.onnx")
    return export_graph(path, folder / "step.onnx", contexts=["image"], **rest)


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize(("first", "every"), [(True, False), (False, True), (True, True)])
def test_a_context_is_read_where_the_graph_read_it(
    first: bool, every: bool, batch: int | str, tmp_path: Path
) -> None:
    report = _export(_graph(first=first, every=every, batch=batch), tmp_path)
    (context,) = report.spec.contexts
    assert (context.name, context.shape) == ("image", (CONTEXT,))
    assert context.input == ("image" if every else None)
    assert report.spec.initialized == (("gru0.h",) if first else ())
    assert report.proof.exact
    assert report.spec.batched


def test_sessions_of_different_contexts_equal_the_graph(tmp_path: Path) -> None:
    report = _export(_graph(first=True, every=True), tmp_path)
    initial = modelfile.read(report.path).initial
    step = StepModel(report.path.read_bytes(), report.spec, initial)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, TIME, FEATURES)).astype("f")
    image = rng.normal(size=(4, CONTEXT)).astype("f")
    answer = step.run(x, [[1] * TIME] * 4, {"image": image})
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx")
    (expected,) = session.run(["y"], {"x": x, "image": image})
    np.testing.assert_allclose(answer.outputs["y"], expected, atol=1e-6)
    (other,) = session.run(["y"], {"x": x, "image": -image})
    assert np.abs(other - expected).max() > 0.1
    assert expected.shape == (4, TIME, OUT)


def test_a_context_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.input("image", ["batch", CONTEXT])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    with pytest.raises(ExportError, match="nothing in the network reads context 'image'"):
        _export(graph, tmp_path)


def test_a_first_state_of_both_context_and_sequence_is_refused(tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.input("image", ["batch", CONTEXT])
    last = graph.add("Gather", ["x", graph.constant(np.array(-1))], axis=1)
    flat = graph.add(
        "Add", [linear(graph, "image", "", size=CONTEXT, out=HIDDEN), graph.weight(HIDDEN)]
    )
    mixed = graph.add("Add", [flat, linear(graph, last, "", size=FEATURES, out=HIDDEN)])
    h = graph.add("Unsqueeze", [mixed, graph.constant(np.array([0]))])
    y = graph.recurrent("GRU", time_major(graph, "x"), h=h)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    with pytest.raises(UnsupportedGraph, match="first state needs 'x', which is no context"):
        _export(graph, tmp_path)


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("picture", ["batch", CONTEXT], "context 'picture' is no input of the graph"),
        ("image", ["batch", "width"], "context 'image' is declared as"),
    ],
)
def test_a_context_that_can_not_be_is_refused(
    name: str, dims: list[Any], message: str, tmp_path: Path
) -> None:
    graph = _graph(first=True, every=False)
    graph.inputs[1] = onnx.helper.make_tensor_value_info("image", 1, dims)
    with pytest.raises(ExportError, match=message):
        export_graph(graph.save(tmp_path / "w.onnx"), tmp_path / "s.onnx", contexts=[name])
