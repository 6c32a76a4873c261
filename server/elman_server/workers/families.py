"""Metrics as plain values that can be sent to another process and added up. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, and its labels in their order."""

_LASTING = frozenset({"counter", "histogram", "summary"})
"""Kinds that only grow: what a process counted stays counted when it is gone."""
_LEAST = frozenset({"process_start_time_seconds", "python_info"})
"""Gauges that tell the same of every process, or of the oldest; their sum would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric with all its samples."""

    name: str
    """Without the `_total` of a counter."""
    kind: str
    """Prometheus' word for it: counter, gauge, histogram, ..."""
    help: str
    samples: dict[Key, float] = field(default_factory=dict)


def merge(parts: Iterable[Iterable[Family]]) -> list[Family]:
    """The families of several processes as those of one: samples of the same name and labels are
    added up. Families and samples come in the order in which they are met first."""
    merged: dict[str, Family] = {}
    for part in parts:
        for family in part:
            into = merged.get(family.name)
            if into is None:
                into = Family(name=family.name, kind=family.kind, help=family.help)
                merged[family.name] = into
            for key, value in family.samples.items():
                if key not in into.samples:
                    into.samples[key] = value
                elif family.name in _LEAST:
                    into.samples[key] = min(into.samples[key], value)
                else:
                    into.samples[key] += value
    return list(merged.values())


class Tally:
    """What all processes counted, those that are gone too, so that no counter ever goes back."""

    def __init__(self) -> None:
        self._living: dict[int, Sequence[Family]] = {}
        self._gone: list[Family] = []

    def update(self, process: int, families: Sequence[Family]) -> None:
        """Replaces what a process told before. `process`: a number that no other one ever had."""
        self._living[process] = families

    def end(self, process: int) -> None:
        """Keeps the counters and histograms of a process that is gone, as it told them last, and
        drops its gauges."""
        families = self._living.pop(process, ())
        lasting = [family for family in families if family.kind in _LASTING]
        self._gone = merge([self._gone, lasting])

    def families(self) -> list[Family]:
        """Of all together."""
        return merge([*self._living.values(), self._gone])
