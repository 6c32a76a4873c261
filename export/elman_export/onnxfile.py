"""Reading an ONNX file."""

from pathlib import Path

import onnx


def load(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path))
