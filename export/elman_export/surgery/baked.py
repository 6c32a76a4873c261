"""Hard-coded lengths in a graph whose input is declared open."""

from collections.abc import Callable, Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import RuntimeFailed
from elman_export.surgery import graphs
from elman_export.surgery.loosen import SHAPED

_TIME = 11
"""An arbitrary length, unlikely in an export."""


def length(model: ir.Model, runs: Callable[[int], object]) -> int | None:
    """The only number of steps for which the graph runs; None if the graph runs for others too.

    `runs(time)` runs the graph, and raises `RuntimeFailed` on failure. Raises `UnsupportedGraph` if
    the graph fails for every number in its shapes too.
    """
    try:
        runs(_TIME)
    except RuntimeFailed as error:
        for time in sorted(set(_written(model))):
            try:
                runs(time)
            except RuntimeFailed:
                continue
            return time
        raise UnsupportedGraph(
            f"the graph's length is declared to be open, but it does not run for {_TIME} steps, "
            f"nor for any number of them that stands in its shapes: {error}"
        ) from error
    return None


def _written(model: ir.Model) -> Iterator[int]:
    for node in RecursiveGraphIterator(model.graph):
        if node.op_type in SHAPED:
            shape = graphs.constant(graphs.input_at(node, SHAPED[node.op_type]))
            if shape is not None:
                yield from (int(each) for each in shape.ravel() if each > 0)
