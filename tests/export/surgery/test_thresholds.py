"""A graph that does otherwise from some length or size on is not the same network step by step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph
from elman_export.original.graphfile import export_graph
from tests.export.surgery.graphs import FEATURES, OUT, Graph, batch_major, linear, time_major


def _length(graph: Graph) -> str:
    return graph.add("Gather", [graph.add("Shape", ["x"]), graph.constant(np.array(1))])


def _layer(graph: Graph, lengths: str = "") -> str:
    return batch_major(graph, graph.recurrent("GRU", time_major(graph, "x"), lengths=lengths))


def _louder_when_long(graph: Graph) -> None:
    hidden = _layer(graph)
    long = graph.add("Greater", [_length(graph), graph.constant(np.array(50))])
    loud = graph.add("Where", [long, graph.constant(np.float32(3)), graph.constant(np.float32(1))])
    linear(graph, graph.add("Mul", [hidden, loud]), "y")


def _clipped_lengths(graph: Graph) -> None:
    most = graph.add("Min", [_length(graph), graph.constant(np.array(50))])
    batch = graph.add("Gather", [graph.add("Shape", ["x"]), graph.constant(np.array([0]))])
    lengths = graph.add("Expand", [graph.add("Cast", [most], to=TensorProto.INT32), batch])
    linear(graph, _layer(graph, lengths), "y")


def _louder_late(graph: Graph) -> None:
    hidden = _layer(graph)
    numbers = [graph.constant(np.array(0)), _length(graph), graph.constant(np.array(1))]
    late = graph.add("Greater", [graph.add("Range", numbers), graph.constant(np.array(50))])
    column = graph.add("Unsqueeze", [late, graph.constant(np.array([1]))])
    loud = graph.add("Cast", [column], to=TensorProto.FLOAT)
    linear(graph, graph.add("Add", [hidden, loud]), "y")


def _truncated(graph: Graph) -> None:
    hidden = _layer(graph)
    numbers = [graph.constant(np.array([number])) for number in (0, 50, 1)]
    linear(graph, graph.add("Slice", [hidden, *numbers], name="cut"), "y")


def _tenth_step(graph: Graph) -> None:
    hidden = _layer(graph)
    tenth = graph.add("Gather", [hidden, graph.constant(np.array(10))], name="tenth", axis=1)
    linear(graph, tenth, "y")


@pytest.mark.parametrize("build", [_louder_when_long, _clipped_lengths, _louder_late])
def test_what_changes_beyond_a_length_fails_its_proof(
    build: Callable[[Graph], None], tmp_path: Path
) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    build(graph)
    graph.output("y")
    with pytest.raises(ProofFailed, match="differs from the graph's"):
        export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_truncated, r"Slice 'cut' picks some of the steps \(0 to 50\)"),
        (_tenth_step, r"Gather 'tenth' picks some of the steps \(index \[10\]\)"),
    ],
)
def test_a_step_that_is_picked_by_its_number_is_refused(
    build: Callable[[Graph], None], message: str, tmp_path: Path
) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    build(graph)
    graph.output("y")
    with pytest.raises(UnsupportedGraph, match=message):
        export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")


@pytest.mark.parametrize("scale", [1e-5, 1e9])
def test_a_difference_is_not_hidden_by_the_size_of_the_output(scale: float, tmp_path: Path) -> None:
    """Positions are added, which no step knows: to small values, or beside one masked column."""
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    hidden = linear(graph, _layer(graph), "")
    numbers = [graph.constant(np.array(0)), _length(graph), graph.constant(np.array(1))]
    places = graph.add("Cast", [graph.add("Range", numbers)], to=TensorProto.FLOAT)
    column = graph.add("Unsqueeze", [places, graph.constant(np.array([1]))])
    added = graph.add("Add", [hidden, column])
    if scale < 1:
        graph.add("Mul", [added, graph.constant(np.float32(scale))], "y")
    else:
        mask = np.zeros(OUT, np.float32)
        mask[0] = -scale
        graph.add("Add", [added, graph.constant(mask)], "y")
    graph.output("y")
    with pytest.raises(ProofFailed, match="differs from the graph's"):
        export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_that_is_none_is_refused(tolerance: float, tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    linear(graph, _layer(graph), "y")
    graph.output("y")
    path = graph.save(tmp_path / "whole.onnx")
    with pytest.raises(ExportError, match=r"tolerance is .*; allowed is a number from 0 up"):
        export_graph(path, tmp_path / "step.onnx", tolerance=tolerance)


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    hidden = _layer(graph)
    noise = graph.add("RandomNormalLike", [hidden], name="noise")
    linear(graph, graph.add("Add", [hidden, noise]), "y")
    graph.output("y")
    with pytest.raises(UnsupportedGraph, match="RandomNormalLike 'noise' draws random numbers"):
        export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")


@pytest.mark.parametrize("perm", [[2, 1, 0, 3], [2, 0, 1, 3], [2, 1, 3, 0], [3, 2, 1, 0]])
def test_an_output_may_have_its_rows_and_steps_anywhere(perm: list[int], tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    graph.add("Transpose", [y], "y", perm=perm)
    graph.output("y")
    report = export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")
    assert report.proof.exact


@pytest.mark.parametrize("name", ["lengths", "elman/Identity"])
def test_names_that_the_graph_has_already_are_no_trouble(name: str, tmp_path: Path) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    linear(graph, graph.add("Identity", [_layer(graph)], name), "y")
    graph.output("y")
    report = export_graph(graph.save(tmp_path / "whole.onnx"), tmp_path / "step.onnx")
    assert report.proof.exact


def test_what_no_wanted_output_needs_is_not_looked_at(tmp_path: Path) -> None:
    from elman_export.interface import values

    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    linear(graph, _layer(graph), "y")
    graph.recurrent("LSTM", time_major(graph, "x"), direction="reverse", made=["backwards"])
    graph.output("y")
    graph.output("backwards")
    path = graph.save(tmp_path / "whole.onnx")
    report = export_graph(path, tmp_path / "step.onnx", outputs=[values("y")])
    assert [state.name for state in report.spec.states] == ["gru0.h"]
