"""File of a step model: an ONNX graph with spec and fingerprint in `metadata_props`.

The metadata also hold the initial-state network, if the model has such a network. This module reads
each regular file once, and needs neither onnx nor a runtime. Whether the graph can run is not
checked here. All constants are inlined in the result, so running the model reads no further file.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from elman_server.model.graph import externaldata, onnxgraph, onnxproto
from elman_server.model.graph.datadependence import data_dependent
from elman_server.model.graph.externaldata import MAX_BYTES, ExternalDataError, Folder
from elman_server.model.ordinaryfile import read_ordinary
from elman_server.model.spec import FINGERPRINT_KEY, INITIAL_KEY, SPEC_KEY, ModelSpec, SpecError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Pattern of a valid model name."""

PROOF_KEY = "elman.proof"
"""Key of the export's proof (see `elman_export.proof.proof`) in `metadata_props`."""

MAX_SPEC_CHARACTERS = 64 * 1024 * 1024
"""Limit of a spec's JSON in characters. A vocabulary of a million entries, written twice, takes
half."""

_DAMAGED = "not an ONNX file, or a damaged one"
_MOST_SHOWN = 1000
"""Characters of a spec error in a message."""

# Field numbers of onnx.proto: ModelProto and StringStringEntryProto.
_GRAPH = 7
_OPSET_IMPORT = 8
_METADATA_PROPS = 14
_KEY = 1
_VALUE = 2


class ModelFileError(Exception):
    """Error for a file that is not a step model. The message has the file's name and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """Contents of a step model's file."""

    path: Path
    spec: ModelSpec
    fingerprint: str
    model: bytes = field(repr=False)
    """The step graph: the bytes of an ONNX file, all constants included."""
    initial: bytes | None = field(default=None, repr=False)
    """The initial-state network; None if `spec.initialized` is empty."""
    data_dependent: str = ""
    """The first operator, in either graph, with a run time that depends on the numbers in sessions'
    inputs; empty if there is no such operator."""
    proof: str | None = field(default=None, repr=False)
    """JSON of the export's proof, or None. The fingerprint does not cover the proof."""

    def without_graphs(self) -> "ModelFile":
        """Returns a copy without the graphs, to save memory while the runtime holds the graphs."""
        return replace(self, model=b"", initial=None)


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> ModelFile:
    """Reads a step model and checks its fingerprint.

    Raises `ModelFileError` if the file can't be read, is not a regular file, is not ONNX, has no
    valid spec, lacks its initial-state network, was changed after the export, refers to constants
    outside its own folder, or takes more than `max_bytes` with all external constants.
    """
    try:
        data = read_ordinary(path, max_bytes)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}") from None
    try:
        metadata = _metadata(data)
    except (DecodeError, UnicodeDecodeError, IndexError):
        raise ModelFileError(f"{path}: {_DAMAGED}") from None
    if SPEC_KEY not in metadata:
        raise ModelFileError(
            f"{path}: no {SPEC_KEY!r} in its metadata, so no step model yet; make one with "
            f"`elman export {path.name}`, see docs/export.md"
        )
    spec = _spec(path, metadata[SPEC_KEY])
    initial = _initial(path, spec, metadata.get(INITIAL_KEY))
    actual = fingerprint(data, metadata[SPEC_KEY], initial)
    if metadata.get(FINGERPRINT_KEY) != actual:
        raise ModelFileError(
            f"{path}: {FINGERPRINT_KEY} is {metadata.get(FINGERPRINT_KEY)!r}, but its contents "
            f"make {actual!r}: it was changed after its export"
        )
    folder, left = Folder.of(path), max_bytes - len(data)
    step = _parsed(path, data)
    network = None if initial is None else _parsed(path, initial)
    found = _data_dependent(step, network, spec)
    model, left = _inlined(path, data, step, folder, left)
    if initial is not None:
        initial, _ = _inlined(path, initial, network, folder, left)
    return ModelFile(
        path=path,
        spec=spec,
        fingerprint=actual,
        model=model,
        initial=initial,
        data_dependent=found,
        proof=metadata.get(PROOF_KEY),
    )


def _data_dependent(
    step: onnxproto.Message, initial: onnxproto.Message | None, spec: ModelSpec
) -> str:
    fed = [spec.input.name, *(state.input for state in spec.states)]
    fed += [name for name in (spec.lengths, *(c.input for c in spec.contexts)) if name]
    found = data_dependent(onnxgraph.read(step), fed)
    if not found and initial is not None:
        contexts = [context.name for context in spec.contexts]
        found = data_dependent(onnxgraph.read(initial), contexts)
    return found


def fingerprint(model: bytes, spec_json: str, initial: bytes | None = None) -> str:
    """Returns the fingerprint, a hex SHA-256, of a step model.

    The hash covers graph (weights included), opsets and spec, as well as graph and opsets of the
    initial-state network, if any. `model` and `initial` are serialized ModelProtos. Other fields
    (producer, metadata) do not count, so the fingerprint can be stored inside the file. External
    weights are not covered.
    """
    digest = hashlib.sha256()
    _digest(digest, model)
    digest.update(spec_json.encode())
    if initial is not None:
        digest.update(INITIAL_KEY.encode())
        _digest(digest, initial)
    return digest.hexdigest()


def _digest(digest: "hashlib._Hash", model: bytes) -> None:
    for number, value in _fields(model):
        if number in (_GRAPH, _OPSET_IMPORT):
            digest.update(f"{number}:{len(value)}:".encode())
            digest.update(value)


def _spec(path: Path, text: str) -> ModelSpec:
    if len(text) > MAX_SPEC_CHARACTERS:
        raise ModelFileError(
            f"{path}: {SPEC_KEY} has {len(text):,} characters; allowed are {MAX_SPEC_CHARACTERS:,}"
        )
    try:
        return ModelSpec.from_json(text)
    except SpecError as error:
        raise ModelFileError(f"{path}: {SPEC_KEY}: {_shortened(str(error))}") from None


def _parsed(path: Path, model: bytes) -> onnxproto.Message:
    try:
        return onnxproto.parse(model)
    except DecodeError:
        raise ModelFileError(f"{path}: {_DAMAGED}") from None


def _inlined(
    path: Path, model: bytes, message: onnxproto.Message, folder: Folder, left: int
) -> tuple[bytes, int]:
    """Returns the model with all constants inlined, and the bytes still allowed afterwards.

    External constants may take at most `left` bytes. `message` is the parsed model.
    """
    try:
        fetched = externaldata.inline(onnxproto.tensors(message), folder, left)
    except ExternalDataError as error:
        raise ModelFileError(f"{path}: {error}") from None
    if fetched is None:
        return model, left
    try:
        return message.SerializeToString(), left - fetched
    except EncodeError:
        raise ModelFileError(
            f"{path}: with its constants it takes more than {MAX_BYTES:,} bytes"
        ) from None


def _shortened(text: str) -> str:
    """Returns a text as a single line of limited length, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}..."


def _initial(path: Path, spec: ModelSpec, text: str | None) -> bytes | None:
    """Returns the initial-state network, or None if the spec needs no network.

    Raises `ModelFileError` if the network is missing, not needed or damaged.
    """
    if not spec.initialized:
        if text is not None:
            raise ModelFileError(
                f"{path}: {INITIAL_KEY!r} is in its metadata, but its spec's `initialized` names "
                "no state"
            )
        return None
    if text is None:
        raise ModelFileError(
            f"{path}: no {INITIAL_KEY!r} in its metadata, though its spec's `initialized` names "
            f"{', '.join(spec.initialized)}"
        )
    try:
        initial = base64.b64decode(text, validate=True)
        # Parse all fields now, so the fingerprint can be computed later without errors.
        list(_fields(initial))
    except (ValueError, DecodeError, IndexError):
        raise ModelFileError(f"{path}: {INITIAL_KEY!r} is no ONNX file in base64") from None
    return initial


def _metadata(model: bytes) -> dict[str, str]:
    found = {}
    for number, value in _fields(model):
        if number == _METADATA_PROPS:
            entry = dict(_fields(value))
            found[entry.get(_KEY, b"").decode()] = entry.get(_VALUE, b"").decode()
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the length-delimited fields of a serialized message, in file order."""
    unknown: Iterable[Any] = UnknownFieldSet(Empty.FromString(message))  # type: ignore[assignment]
    for found in unknown:
        if isinstance(found.data, bytes):
            yield found.field_number, found.data
