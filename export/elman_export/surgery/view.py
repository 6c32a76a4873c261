"""A node of a graph, with the axes and values of its tensors."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from elman_export.surgery.trace import Axes


@dataclass(frozen=True, slots=True)
class View:
    """A node, with attributes and inputs by name, axis or index."""

    node: ir.Node
    axes: Mapping[str, Axes]
    values: Mapping[str, np.ndarray]
    opset: int
    constants: Container[str]
    computed: Container[str]
    """Tensors computed from values of the sequence."""

    def timed(self, name: str) -> tuple[int, ...]:
        """A tensor's time axes, including merged axes (`folded` and `odd`)."""
        axes = self.axes.get(name)
        return () if axes is None else (*axes.time, *axes.folded, *axes.odd)

    def rank(self, name: str) -> int:
        return int(np.ndim(self.values[name]))

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs; empty for an omitted optional input."""
        return tuple("" if value is None else str(value.name) for value in self.node.inputs)

    def input(self, index: int) -> str:
        return self.inputs[index] if index < len(self.node.inputs) else ""

    def axis(self, default: int, name: str = "axis") -> int:
        return self.normal(int(self.attribute(name, default)))

    def normal(self, axis: int) -> int:
        return axis % max(1, self.rank(self.input(0)))

    def listed(self, attribute: str, index: int) -> list[int] | None:
        """Whole numbers from an attribute (old opsets) or an input (new opsets); None if absent."""
        found = self.attribute(attribute)
        if found is None and self.input(index):
            found = np.atleast_1d(self.values[self.input(index)]).tolist()
        return None if found is None else [int(each) for each in np.atleast_1d(found)]
