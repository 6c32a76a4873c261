"""What a server asks a child that loads a model, and what it is answered.

The question is pickled: it comes from the parent. The answer is JSON: the child has run what a
stranger made.
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
    source: ModelSource
    config: ServerConfig
    """Without what only the server is to know."""
    memory: int
    """Bytes that the child may take; 0 for any number."""
    run: bool = True
    """Whether the model is to be run; else its file is read, and no more."""

    def to_bytes(self) -> bytes:
        return pickle.dumps(self)

    @staticmethod
    def from_bytes(data: bytes) -> "Request":
        return cast(Request, pickle.loads(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """How many bytes each graph takes in the file that parent and child share: the step graph's
    first, and behind them the initial-state network's, if there is one."""

    model: int
    initial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A step model's file without its graphs."""

    spec: str
    """As JSON."""
    fingerprint: str
    data_dependent: str
    """As in `ModelFile`."""
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
    error: str = ""
    """Why the model can't be served, in one line that names its file; empty if it can."""
    detail: str = ""
    """More on an error that was not foreseen."""
    description: Description | None = None
    graphs: Graphs | None = None
    probe: Probe | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), default=lambda value: value.value).encode()

    @staticmethod
    def from_json(data: bytes) -> "Answer":
        """Raises `ValueError`, `TypeError` or `KeyError` for what `to_json` did not write."""
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
