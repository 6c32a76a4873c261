"""Writing of a proved step model: spec, fingerprint and proof go into the file, then the file moves
into place."""

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
    """The written file, and the comparison with the original."""

    path: Path
    size: int
    """In bytes."""
    spec: ModelSpec
    fingerprint: str
    proof: Proof
    replaced: bool = False
    """Whether an older file was replaced."""
    notes: tuple[str, ...] = ()
    """Further remarks, such as operators that could not become int8."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """By output, in the spec's order."""
        return self.proof.differences

    @property
    def elements(self) -> int:
        """Number of elements compared in each way."""
        return self.proof.elements


def keep(
    model: onnx.ModelProto,
    spec: ModelSpec,
    proof: Proof,
    path: str | os.PathLike[str],
    *,
    initial: onnx.ModelProto | None = None,
) -> Report:
    """Writes a step model, and the initial-state network if given, to `path`."""
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
    """Writes a temporary file beside `path`, reads the file like a server, then moves it into
    place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(model.SerializeToString())
        modelfile.read(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
