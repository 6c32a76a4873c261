"""Hard-coded lengths in a graph whose input is declared open."""

from collections.abc import Callable, Iterator

import onnx

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import RuntimeFailed
from elman_export.surgery.editor import Editor
from elman_export.surgery.loosen import SHAPED
from elman_export.surgery.onnxnodes import nodes

_TIME = 11
"""An arbitrary length, unlikely in an export."""


def length(model: onnx.ModelProto, runs: Callable[[int], object]) -> int | None:
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


def _written(model: onnx.ModelProto) -> Iterator[int]:
    constants = Editor(model).constants()
    for node in nodes(model):
        index = SHAPED.get(node.op_type)
        if index is not None and node.input[index] in constants:
            yield from (int(each) for each in constants[node.input[index]].ravel() if each > 0)
