"""Export of trained recurrent networks to ONNX step models, and recipes that train some."""

from elman_export.errors import ExportError, ProofFailed, UnsupportedModule
from elman_export.exporter import export
from elman_export.interface import (
    Output,
    features,
    logits,
    probabilities,
    text,
    tokens,
    values,
)
from elman_export.keep import Report
from elman_export.proof import Comparison, Difference, Proof

__all__ = [
    "Comparison",
    "Difference",
    "ExportError",
    "Output",
    "Proof",
    "ProofFailed",
    "Report",
    "UnsupportedModule",
    "export",
    "features",
    "logits",
    "probabilities",
    "text",
    "tokens",
    "values",
]
