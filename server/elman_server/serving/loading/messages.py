"""Messages between a server and a child that loads a model.

The request is pickled, because it comes from the trusted parent. The answer is JSON, because the
child has run an untrusted model.
"""

import json
import pickle
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from elman_server.config import ServerConfig
from elman_server.engine.limits import Chunking
from elman_server.model.modelfile import ModelFile
from elman_server.model.repository import ModelSource
from elman_server.model.spec import ModelSpec
from elman_server.runner.probe import BeginningCost, Probe, StepCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to load or read a model."""

    source: ModelSource
    config: ServerConfig
    """Settings without the server's secrets."""
    memory: int
    """Bytes that the child may take; 0 for no limit."""
    run: bool = True
    """Whether to run the model. If False, the child only reads the file."""

    def to_bytes(self) -> bytes:
        return pickle.dumps(self)

    @staticmethod
    def from_bytes(data: bytes) -> "Request":
        return cast(Request, pickle.loads(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """Sizes, in bytes, of the graphs in the file shared by parent and child.

    The step graph comes first, followed by the initial-state network if the model has such a
    network.
    """

    model: int
    initial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Contents of a step model's file, without the graphs."""

    spec: str
    """The `ModelSpec` as JSON."""
    fingerprint: str
    data_dependent: str
    """Operator, as in `ModelFile.data_dependent`."""
    proof: str | None

    @staticmethod
    def of(file: ModelFile) -> "Description":
        return Description(
            spec=file.spec.to_json(),
            fingerprint=file.fingerprint,
            data_dependent=file.data_dependent,
            proof=file.proof,
        )

    def file(self, path: Path, *, model: bytes = b"", initial: bytes | None = None) -> ModelFile:
        return ModelFile(
            path=path,
            spec=ModelSpec.from_json(self.spec),
            fingerprint=self.fingerprint,
            data_dependent=self.data_dependent,
            proof=self.proof,
            model=model,
            initial=initial,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A child's answer."""

    error: str = ""
    """Reason why the model can't be served, as a single line with the file's name; empty if the
    model can be served."""
    detail: str = ""
    """Traceback of an unexpected error."""
    description: Description | None = None
    graphs: Graphs | None = None
    probe: Probe | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), default=lambda value: value.value).encode()

    @staticmethod
    def from_json(data: bytes) -> "Answer":
        """Parses an answer. Raises `ValueError`, `TypeError` or `KeyError` if `to_json` did not
        write the data."""
        found: dict[str, Any] = json.loads(data)
        described, graphs, probe = found["description"], found["graphs"], found["probe"]
        return Answer(
            error=found["error"],
            detail=found["detail"],
            description=None if described is None else Description(**described),
            graphs=None if graphs is None else Graphs(**graphs),
            probe=None if probe is None else _probe(probe),
        )


def _probe(found: dict[str, Any]) -> Probe:
    values = {each.name: found[each.name] for each in fields(Probe)}
    return Probe(
        **{
            **values,
            "chunking": Chunking(found["chunking"]),
            "cost": StepCost(**found["cost"]),
            "beginning": BeginningCost(**found["beginning"]),
        }
    )
