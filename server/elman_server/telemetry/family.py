"""Metric family: a metric with its samples as plain values, to send between processes. Pure."""

from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric with all its samples."""

    name: str
    """Name without a counter's suffix `_total`."""
    kind: str
    """Prometheus type: counter, gauge, histogram, ..."""
    help: str
    samples: dict[Key, float] = field(default_factory=dict)
