"""Keeping a proved step model: its spec, fingerprint and proof go into the file, and the file into
its place.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import onnx

from elman_export.proof.proof import Difference, Proof
from elman_server.model import modelfile
from elman_server.model.modelfile import PROOF_KEY
from elman_server.model.spec import FINGERPRINT_KEY, INITIAL_KEY, SPEC_KEY, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written, and how it compared with the original."""

    path: Path
    size: int
    """Bytes."""
    spec: ModelSpec
    fingerprint: str
    proof: Proof
    replaced: bool = False
    """Whether there was a file in its place."""
    notes: tuple[str, ...] = ()
    """What to know of it beside, as which operators were to become int8 and did not."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """By output, in the spec's order."""
        return self.proof.differences

    @property
    def elements(self) -> int:
        """How many elements were compared, in each way of cutting them up."""
        return self.proof.elements


def keep(
    model: onnx.ModelProto,
    spec: ModelSpec,
    proof: Proof,
    path: str | os.PathLike[str],
    *,
    initial: onnx.ModelProto | None = None,
) -> Report:
    """Writes a step model, and its initial-state network if it has one, to `path`."""
    path = Path(path)
    properties = {SPEC_KEY: spec.to_json(), PROOF_KEY: proof.to_json()}
    network = None if initial is None else initial.SerializeToString()
    if network is not None:
        properties[INITIAL_KEY] = base64.b64encode(network).decode()
    fingerprint = modelfile.fingerprint(model.SerializeToString(), properties[SPEC_KEY], network)
    onnx.helper.set_model_props(model, {**properties, FINGERPRINT_KEY: fingerprint})
    replaced = path.exists()
    _write(model, path)
    return Report(
        path=path,
        size=path.stat().st_size,
        spec=spec,
        fingerprint=fingerprint,
        proof=proof,
        replaced=replaced,
    )


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Writes the file beside its place, reads it as a server would, then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(model.SerializeToString())
        modelfile.read(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
