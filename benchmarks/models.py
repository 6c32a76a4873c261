"""The models that are measured: LSTMs with random weights, a 64-dimensional embedding before them
and 96 logits behind.
"""

from dataclasses import dataclass
from pathlib import Path

from elman_export.quantization import quantize
from tests.stepmodels import Shape, lstm, save

VOCABULARY = "".join(chr(code) for code in range(32, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    hidden: int
    layers: int
    int8: bool = False

    @property
    def name(self) -> str:
        return f"lstm-{self.layers}x{self.hidden}{'-int8' if self.int8 else ''}"

    def save(self, repository: Path) -> Path:
        """Writes the model into a repository."""
        model, spec = lstm(
            Shape(hidden=self.hidden, layers=self.layers, embedded=64, vocabulary=VOCABULARY)
        )
        if self.int8:
            model, spec = quantize(model, spec)
        return save(model, spec, repository / self.name / "1" / "model.onnx")


SMALL = Size(hidden=128, layers=1)
MIDDLE = Size(hidden=256, layers=2)
LARGE = Size(hidden=512, layers=2)
