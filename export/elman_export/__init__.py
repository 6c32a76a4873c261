"""Export of trained recurrent networks to ONNX step models, and recipes that train some.

torch is loaded only with `export`, onnx-ir only with `export` and `export_graph`.
"""

from typing import TYPE_CHECKING, Any

from elman_export.errors import ExportError, ProofFailed, UnsupportedModule
from elman_export.interface import (
    Output,
    context,
    features,
    logits,
    probabilities,
    state,
    text,
    tokens,
    values,
)
from elman_export.proof.proof import Comparison, Difference, Proof
from elman_export.writer import Report

if TYPE_CHECKING:
    from elman_export.exporter import export
    from elman_export.original.graphfile import export_graph

__all__ = [
    "Comparison",
    "Difference",
    "ExportError",
    "Output",
    "Proof",
    "ProofFailed",
    "Report",
    "UnsupportedModule",
    "context",
    "export",
    "export_graph",
    "features",
    "logits",
    "probabilities",
    "state",
    "text",
    "tokens",
    "values",
]


def __getattr__(name: str) -> Any:
    if name == "export":
        from elman_export.exporter import export

        return export
    if name == "export_graph":
        from elman_export.original.graphfile import export_graph

        return export_graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
