from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.original.graphfile import export_graph
from elman_export.writer import Report
from tests.export.surgery.graphs import FEATURES, OUT, TIME, Graph
from tests.oracle import Oracle

Lift = Callable[..., Report]
Refused = Callable[..., str]


@pytest.fixture
def lift(tmp_path: Path) -> Lift:
    """Exports a graph with input `x` and output `y`, and compares both once more by hand.

    `laid_out` is how the graph takes one sequence `[time, features]`.
    """

    def compare(
        graph: Graph,
        laid_out: Callable[[np.ndarray], np.ndarray] = lambda x: x[None],
        **rest: Any,
    ) -> Report:
        path = graph.save(tmp_path / "whole.onnx")
        report = export_graph(path, tmp_path / "step" / "model.onnx", **rest)
        oracle = Oracle(report.path)
        x = np.random.default_rng(3).standard_normal((TIME, FEATURES)).astype(np.float32)
        steps = [outputs["y"] for outputs in oracle.run(x)]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {"x": laid_out(x)}
        for each in session.get_inputs()[1:]:
            if each.name in rest.get("constants", {}):
                feed[each.name] = np.array(rest["constants"][each.name])
            else:
                feed[each.name] = np.full(1, TIME, "int64" if "64" in each.type else "int32")
        (y,) = session.run(["y"], feed)
        expected = y.reshape(-1, OUT)[-TIME:]
        np.testing.assert_allclose(np.array(steps)[-len(expected) :], expected, atol=1e-5)
        return report

    return compare


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The message of the refusal; there is no file and no rest of one."""

    def run(graph: Graph, error: type[ExportError] = UnsupportedGraph, **rest: Any) -> str:
        path = graph.save(tmp_path / "whole.onnx")
        with pytest.raises(error) as caught:
            export_graph(path, tmp_path / "out" / "model.onnx", **rest)
        assert not (tmp_path / "out").exists()
        message = str(caught.value)
        assert "\n" not in message
        return message

    return run
