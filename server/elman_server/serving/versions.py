"""Comparison of the repository with the loaded versions: which versions to load and serve. Pure.

A version is served if its files are in the repository and its load succeeds. Of each model the
newest `keep` versions are served; 0 means all. A newer version replaces an older version only after
a successful load.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from elman_server.model.repository import ModelSource, Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Result of `compare`."""

    load: tuple[ModelSource, ...]
    """Versions to load, by name, the newest first. Compare again after each load: the result
    depends on its success."""
    current: frozenset[ModelSource]
    """Loaded versions to serve. Other loaded versions retire when their sessions have ended."""
    replaced: tuple[ModelSource, ...]
    """Loaded versions with changed files in the repository."""


def compare(
    found: Mapping[ModelSource, Stamp],
    *,
    loaded: Collection[ModelSource],
    tried: Mapping[ModelSource, Stamp],
    keep: int,
) -> Comparison:
    """Compares the repository with the loaded versions.

    `found` are the stamps of the sources now in the repository. `tried` are the stamps of sources
    at their last load or check. A source with a failed load is tried again when its stamp changes.
    """
    there = [source for source in found if source in loaded]
    able = [source for source in found if source in loaded or tried.get(source) != found[source]]
    return Comparison(
        load=tuple(source for source in _newest(able, keep) if source not in loaded),
        current=frozenset(_newest(there, keep)),
        replaced=tuple(source for source in there if tried.get(source) != found[source]),
    )


def _newest(sources: Iterable[ModelSource], keep: int) -> list[ModelSource]:
    """Returns the newest `keep` versions of each model, or all for 0; by name, newest first."""
    ordered = sorted(sources, key=lambda source: (source.name, -int(source.version)))
    return [
        source
        for _, versions in groupby(ordered, key=lambda source: source.name)
        for source in list(versions)[: keep or None]
    ]
