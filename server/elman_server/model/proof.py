"""Export proof in a step model's file: differences between step model and original network.

The proof has a comparison for each output and each way of running the step model. The export writes
the proof; this module only reads it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFile, ModelFileError


@checked(frozen=True, slots=True, kw_only=True)
class KeptComparison:
    """Largest difference of an output from the original network's, for a way of running the step
    model."""

    output: str
    way: str
    maximum: float
    exact: bool
    input: str = "random"


@checked(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Displayed fields of the proof. Other fields are ignored."""

    comparisons: tuple[KeptComparison, ...]
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptProof:
    """Proof read from a step model's file."""

    comparisons: Sequence[KeptComparison]
    elements: int
    """Number of elements compared in each way."""
    document: Any
    """The whole proof as parsed JSON."""


def kept_proof(file: ModelFile) -> KeptProof | None:
    """Returns the proof in a step model's file, or None if the file has no proof.

    Raises `ModelFileError` for an invalid proof.
    """
    text = file.proof
    if text is None:
        return None
    try:
        kept = _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "proof"
        raise ModelFileError(
            f"{file.path}: {modelfile.PROOF_KEY}: {where}: {first['msg']}"
        ) from None
    return KeptProof(
        comparisons=kept.comparisons, elements=kept.elements, document=json.loads(text)
    )


_ADAPTER = TypeAdapter(_Kept)
