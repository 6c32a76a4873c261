"""The model repository: where models lie on disk, as `NAME/VERSION/model.onnx`.

This module finds files; it does not read them. It may be asked again and again, while files come
and go.
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
"""The repository of the models that come with the package."""

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    name: str
    version: str
    """A positive decimal number."""
    path: Path

    def stamp(self) -> "Stamp":
        """Of the files as they are now. Of a model in a repository all in its folder count: weights
        may lie beside it."""
        paths = [self.path]
        if self.path.name == MODEL_FILE:
            with suppress(OSError):
                paths = sorted(self.path.parent.iterdir())
        return Stamp(files=tuple(filter(None, map(_stamp, paths))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Equal to another one of the same source as long as nobody touched its files."""

    files: tuple[tuple[str, int, int, int, int], ...]
    """Name, inode, size and the times of the last change of contents and of anything at all; of
    each file that can be looked at."""


def _stamp(path: Path) -> tuple[str, int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
        """All that is there now, by name and version. Raises `ModelLoadError` if there is nothing,
        or if that can't be told."""
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
    """What lies in several repositories, or files, now. Raises `ModelLoadError` if one of them has
    nothing, or if a version is there twice."""
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
    """Names in a folder. There are none in what is no folder, or may not be read, or has gone since
    somebody saw it."""
    try:
        return [name for name in os.listdir(folder) if allowed.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


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
