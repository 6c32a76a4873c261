"""The model repository: where models lie on disk, as `NAME/VERSION/model.onnx`.

This module finds files; it does not read them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elman_server.errors import ModelLoadError
from elman_server.modelfile import NAME

MODEL_FILE = "model.onnx"
BUNDLED = Path(__file__).parent / "models"
"""The repository of the models that come with the package."""

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    name: str
    version: str
    """A positive decimal number."""
    path: Path


class ModelRepository:
    def __init__(self, path: Path) -> None:
        """A repository's folder, or a single step model's file: version 1 of a model named after
        the file, or after its folders if it lies in a repository. Raises `ModelLoadError`."""
        try:
            found = path.exists()
        except OSError as error:
            raise ModelLoadError(f"{path}: {error.strerror}") from None
        if not found:
            raise ModelLoadError(f"{path}: no such file or folder")
        self._path = path

    def sources(self) -> list[ModelSource]:
        """All that is there, by name and version. Raises `ModelLoadError` if there is nothing."""
        if self._path.is_file():
            return [_single(self._path)]
        found = sorted(self._scan(), key=lambda source: (source.name, int(source.version)))
        if not found:
            raise ModelLoadError(
                f"{self._path}: no models; they lie in it as NAME/VERSION/{MODEL_FILE}, "
                "VERSION a positive number"
            )
        return found

    def _scan(self) -> Iterator[ModelSource]:
        for path in self._path.glob(f"*/*/{MODEL_FILE}"):
            name, version = path.parts[-3:-1]
            if NAME.fullmatch(name) and _VERSION.fullmatch(version):
                yield ModelSource(name=name, version=version, path=path)


def _single(path: Path) -> ModelSource:
    # A file that lies less deep has no such folders.
    *_, name, version, _ = "", "", *path.absolute().parts
    if path.name == MODEL_FILE and _VERSION.fullmatch(version) and NAME.fullmatch(name):
        return ModelSource(name=name, version=version, path=path)
    if not NAME.fullmatch(path.stem):
        raise ModelLoadError(
            f"{path}: {path.stem!r} is no name for a model; allowed are letters, digits, '.', '_' "
            "and '-', a letter or digit first"
        )
    return ModelSource(name=path.stem, version="1", path=path)
