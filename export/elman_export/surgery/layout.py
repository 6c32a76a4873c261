"""Finds the batch and time axes of a whole-sequence graph by running the graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import Arrays, RuntimeFailed
from elman_export.surgery import lift, recurrent
from elman_export.surgery.graphs import describe
from elman_server.model.spec import InputSpec

_BATCH, _TIME = 3, 5
"""Sizes of the run where the graph leaves them open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The axes of the sequence input, and the sizes fixed in the file."""

    batch: int | None
    """None: the graph takes one sequence, without a batch axis."""
    time: int
    fixed_batch: int | None
    fixed_time: int | None

    def arrange(self, x: np.ndarray) -> np.ndarray:
        """`[batch, time, *shape]` in the graph's layout. Without a batch axis, `batch` is 1."""
        if self.batch is None:
            only: np.ndarray = x[0]
            return only
        return x if self.batch < self.time else np.swapaxes(x, 0, 1)


def dims(value: ir.Value) -> list[int | None]:
    """The declared shape; None for an open or undeclared size."""
    return [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape or ()]


def find(
    model: ir.Model,
    value: ir.Value,
    input: InputSpec,
    feed: Callable[[np.ndarray], Arrays],
) -> Layout:
    """The layout with which the first recurrent operator reads `[time, batch, ...]`.

    `feed(x)` returns the graph's inputs for a sequence in the graph's layout. Raises
    `UnsupportedGraph` if no layout runs, or if no layout gives the operator one step for each
    element.
    """
    declared = dims(value)
    operators = recurrent.find(model.graph)
    said = ""
    for layout in _candidates(declared, input):
        batch, time = layout.fixed_batch or _BATCH, layout.fixed_time or _TIME
        if layout.batch is None:
            batch = 1
        x = layout.arrange(_zeros(input, batch, time))
        if any(size not in (None, actual) for size, actual in zip(declared, x.shape, strict=True)):
            continue
        for index, operator in enumerate(operators):
            try:
                given = lift.seen(model, index, 0, feed(x))
            except RuntimeFailed as error:
                said = said or str(error)
                break
            if not given.size:
                continue  # the operator is in a branch that was not taken
            if given.shape[:2] == (time, batch):
                _check_names(value, layout, operator.node)
                return layout
            said = (
                f"for {batch} sequences of {time} elements, {describe(operator.node)} is given "
                f"{list(given.shape)}, which does not begin with {[time, batch]}: it does not run "
                "along the sequence, one step for an element"
            )
            break
    shape = [size if size is not None else "?" for size in declared]
    raise UnsupportedGraph(
        f"input {value.name!r}, declared as {shape}, can't be given elements of shape "
        f"{list(input.shape)}: {said or 'its number of axes does not fit'}"
    )


def _check_names(value: ir.Value, layout: Layout, node: ir.Node) -> None:
    assert value.shape is not None
    called = str(value.shape[layout.time])
    if "batch" in called.lower():
        raise UnsupportedGraph(
            f"{describe(node)} runs along axis {layout.time} of {value.name!r}, which the graph "
            f"calls {called!r}; it must run along time"
        )


def _candidates(declared: Sequence[int | None], input: InputSpec) -> list[Layout]:
    """Possible layouts, in the order of trial."""
    axes = len(declared) - len(input.shape)
    found = []
    for batch, time in ((0, 1), (1, 0)) if axes == 2 else ((None, 0),) if axes == 1 else ():
        found.append(
            Layout(
                batch=batch,
                time=time,
                fixed_batch=1 if batch is None else declared[batch],
                fixed_time=declared[time],
            )
        )
    return found


def _zeros(input: InputSpec, batch: int, time: int) -> np.ndarray:
    return np.zeros((batch, time, *input.shape), input.dtype)
