"""What a caller asks of an export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elman_export.interface import Output, States
from elman_server.model.spec import ContextSpec, InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of every export. `elman_export.export` and `elman_export.export_graph` document each
    option."""

    outputs: Sequence[Output] = ()
    description: str = ""
    examples: Any = None
    expected: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Required outputs for the examples, by output name."""
    tolerance: float | None = None
    """Allowed difference; `None` for the default of the original."""
    quantized: bool = False
    seed: int = 0

    @property
    def meanings(self) -> Mapping[str, Output]:
        """The described outputs by name."""
        return {each.name: each for each in self.outputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleArguments:
    """Arguments of a torch module, and their layout."""

    input: InputSpec
    states: Sequence[States] = ()
    contexts: Sequence[ContextSpec] = ()
    batch_first: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """Inputs of an ONNX graph by role, and the overlap between elements."""

    input: InputSpec | None = None
    """Description of the elements; `None` where the graph itself describes them."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Pairs of an input and the output with the next value."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    contexts: Sequence[str] = ()
    overlap: int = 0
