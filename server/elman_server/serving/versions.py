"""Which versions are to be served: what lies in the repository compared with what is loaded. Pure.

A version is served if its files lie in the repository and it can be loaded; of each model the
newest `keep`, if that is not 0. A newer version takes the place of an older one only once it is
loaded: until then, and if it can't be, nothing changes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from elman_server.model.repository import ModelSource, Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    load: tuple[ModelSource, ...]
    """What is to be loaded, by name, the newest first. After each the comparison is to be made
    again: it depends on whether that could be loaded."""
    current: frozenset[ModelSource]
    """Of what is loaded, what is to be served; the rest is to go when its sessions have ended."""
    replaced: tuple[ModelSource, ...]
    """What is to be served and has other files than those that were loaded."""


def compare(
    found: Mapping[ModelSource, Stamp],
    *,
    loaded: Collection[ModelSource],
    tried: Mapping[ModelSource, Stamp],
    keep: int,
) -> Comparison:
    """`found` is what the repository has now. `tried` has the stamps with which sources were looked
    at before: those that are loaded, and those that could not be, which are tried again when their
    files have changed."""
    there = [source for source in found if source in loaded]
    able = [source for source in found if source in loaded or tried.get(source) != found[source]]
    return Comparison(
        load=tuple(source for source in _newest(able, keep) if source not in loaded),
        current=frozenset(_newest(there, keep)),
        replaced=tuple(source for source in there if tried.get(source) != found[source]),
    )


def _newest(sources: Iterable[ModelSource], keep: int) -> list[ModelSource]:
    """The newest `keep` of each model, or all for 0; by name, the newest first."""
    ordered = sorted(sources, key=lambda source: (source.name, -int(source.version)))
    return [
        source
        for _, versions in groupby(ordered, key=lambda source: source.name)
        for source in list(versions)[: keep or None]
    ]
