"""A step model before the proof."""

from dataclasses import dataclass

import onnx

from elman_server.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A step model that may differ from the original until a proof."""

    model: onnx.ModelProto
    spec: ModelSpec
    initial: onnx.ModelProto | None = None
    """The initial-state network, if there is one."""
