"""Metric families of several processes, merged into one. Pure."""

from collections.abc import Iterable, Sequence

from elman_server.telemetry.family import Family

_LASTING = frozenset({"counter", "histogram", "summary"})
"""Kinds of metrics that never decrease. Counts of a process are kept after its end."""
_LEAST = frozenset({"process_start_time_seconds", "python_info"})
"""Gauges merged by minimum: equal in all processes, or the start of the oldest process. A sum would
be meaningless."""


def merge(parts: Iterable[Iterable[Family]]) -> list[Family]:
    """Merges the families of several processes: sums samples with equal name and labels.

    Families and samples keep the order of their first occurrence.
    """
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
    """Metrics of all processes, ended processes included, so no counter ever decreases."""

    def __init__(self) -> None:
        self._living: dict[int, Sequence[Family]] = {}
        self._gone: list[Family] = []

    def update(self, process: int, families: Sequence[Family]) -> None:
        """Replaces a process's earlier families. `process` is a number that is never reused."""
        self._living[process] = families

    def end(self, process: int) -> None:
        """Ends a process: keeps the last counters and histograms, and drops the gauges."""
        families = self._living.pop(process, ())
        lasting = [family for family in families if family.kind in _LASTING]
        self._gone = merge([self._gone, lasting])

    def families(self) -> list[Family]:
        """Returns the merged families of all processes."""
        return merge([*self._living.values(), self._gone])
