"""Export of trained recurrent networks to ONNX step models, and recipes that train some."""

from elman_export.errors import ExportError, ProofFailed, UnsupportedModule
from elman_export.exporter import Report, export
from elman_export.interface import (
    Output,
    features,
    logits,
    probabilities,
    text,
    tokens,
    values,
)
from elman_export.proof import Difference

__all__ = [
    "Difference",
    "ExportError",
    "Output",
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
