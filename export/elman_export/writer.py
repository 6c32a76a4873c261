"""Writing of a proved step model: spec, fingerprint and proof go into the file, then the file moves
into place."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import onnx

from elman_export.candidate import Candidate
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


def write(candidate: Candidate, proof: Proof, path: str | os.PathLike[str]) -> Report:
    """Writes a proved step model to `path`, with the initial-state network if there is one."""
    path = Path(path)
    model, spec = candidate.model, candidate.spec
    properties = {SPEC_KEY: spec.to_json(), PROOF_KEY: proof.to_json()}
    initial = None if candidate.initial is None else candidate.initial.SerializeToString()
    if initial is not None:
        properties[INITIAL_KEY] = base64.b64encode(initial).decode()
    fingerprint = modelfile.fingerprint(model.SerializeToString(), properties[SPEC_KEY], initial)
    onnx.helper.set_model_props(model, {**properties, FINGERPRINT_KEY: fingerprint})
    replaced = path.exists()
    _write_file(model, path)
    return Report(
        path=path,
        size=path.stat().st_size,
        spec=spec,
        fingerprint=fingerprint,
        proof=proof,
        replaced=replaced,
    )


def _write_file(model: onnx.ModelProto, path: Path) -> None:
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
