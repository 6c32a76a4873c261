"""What an export kept of its proof in a step model's file: how far the step model was from the
network that it was made from, way by way. The export writes it; this only shows it."""

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
    """How far one output was from the original's, the step model being asked in one way."""

    output: str
    way: str
    maximum: float
    exact: bool
    input: str = "random"


@checked(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The fields that are shown; others are let pass."""

    comparisons: tuple[KeptComparison, ...]
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptProof:
    comparisons: Sequence[KeptComparison]
    elements: int
    """How many elements were compared in each way."""
    document: Any
    """All that was kept, as JSON."""


def kept_proof(file: ModelFile) -> KeptProof | None:
    """The proof in a step model's file, or None if there is none.

    Raises `ModelFileError` if it is there and can't be read.
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
