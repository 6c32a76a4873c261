"""Model repository: a folder with models as `NAME/VERSION/model.onnx`.

This module lists files without reading them. It supports repeated scans while files are added and
removed.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elman_server.errors import ModelLoadError
from elman_server.model.modelfile import NAME

MODEL_FILE = "model.onnx"
BUNDLED = Path(__file__).parent.parent / "models"
"""Repository of the package's own models."""

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A version of a model in a repository, with its file."""

    name: str
    version: str
    """A positive decimal number."""
    path: Path

    def stamp(self) -> "Stamp":
        """Returns the stamp of the current files. In a repository, all files in the model's folder
        count, since weights may be in separate files."""
        paths = [self.path]
        if self.path.name == MODEL_FILE:
            with suppress(OSError):
                paths = sorted(self.path.parent.iterdir())
        return Stamp(files=tuple(filter(None, map(_stamp, paths))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Metadata of a source's files. Stamps of a source stay equal until its files change."""

    files: tuple[tuple[str, int, int, int, int], ...]
    """Name, inode, size, mtime and ctime (ns) of each accessible file."""


def _stamp(path: Path) -> tuple[str, int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class ModelRepository:
    """A repository's folder, or the file of a single step model."""

    def __init__(self, path: Path) -> None:
        """Checks the path. Raises `ModelLoadError`.

        A single file in a repository's layout takes name and version from its folders. Any other
        single file is version 1 of a model named after the file.
        """
        try:
            found = path.exists()
        except OSError as error:
            raise ModelLoadError(f"{path}: {error.strerror}") from None
        if not found:
            raise ModelLoadError(f"{path}: no such file or folder")
        self._path = path

    def sources(self) -> list[ModelSource]:
        """Lists the sources now present, by name and version. Raises `ModelLoadError` if there are
        no sources, or if the folder can't be read."""
        try:
            if self._path.is_file():
                return [_single(self._path)]
            found = sorted(self._scan(), key=lambda source: (source.name, int(source.version)))
        except OSError as error:
            raise ModelLoadError(f"{self._path}: {error.strerror}") from None
        if not found:
            raise ModelLoadError(
                f"{self._path}: no models; they lie in it as NAME/VERSION/{MODEL_FILE}, "
                "VERSION a positive number"
            )
        return found

    def _scan(self) -> Iterator[ModelSource]:
        for name in _entries(self._path, NAME):
            for version in _entries(self._path / name, _VERSION):
                path = self._path / name / version / MODEL_FILE
                if os.path.exists(path):
                    yield ModelSource(name=name, version=version, path=path)


def find(paths: Sequence[Path]) -> list[ModelSource]:
    """Lists the sources now present in several repositories or files. Raises `ModelLoadError` if
    any repository is empty, or if a version is present twice."""
    found = [source for path in paths for source in ModelRepository(path).sources()]
    seen: dict[tuple[str, str], ModelSource] = {}
    for source in found:
        other = seen.setdefault((source.name, source.version), source)
        if other is not source:
            raise ModelLoadError(
                f"model {source.name!r} version {source.version} is there twice: {other.path} "
                f"and {source.path}"
            )
    return found


def _entries(folder: Path, allowed: "re.Pattern[str]") -> list[str]:
    """Returns the allowed names in a folder; empty if the path is not a folder, is not readable, or
    was removed in the meantime."""
    try:
        return [name for name in os.listdir(folder) if allowed.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _single(path: Path) -> ModelSource:
    # A path near the root has fewer parents, so name and version default to "".
    *_, name, version, _ = "", "", *path.absolute().parts
    if path.name == MODEL_FILE and _VERSION.fullmatch(version) and NAME.fullmatch(name):
        return ModelSource(name=name, version=version, path=path)
    if not NAME.fullmatch(path.stem):
        raise ModelLoadError(
            f"{path}: {path.stem!r} is no name for a model; allowed are letters, digits, '.', '_' "
            "and '-', a letter or digit first"
        )
    return ModelSource(name=path.stem, version="1", path=path)
