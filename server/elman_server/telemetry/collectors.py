"""Values of a metric by labels, as prometheus_client reads them at a scrape.

A metric without labels is exposed from its first use on; a metric with labels is always exposed.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import add

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from elman_server.telemetry.table import Counter, Gauge, Histogram

_FEW = 8
"""Number of values up to which a Python loop counts faster than numpy."""


class Total:
    """A labelled value of a counter. Only the event loop counts, so no lock is necessary."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Totals(Collector):
    """A counter with very little overhead: some counters count every message."""

    def __init__(self, row: Counter) -> None:
        self._row = row
        self._labels = (*row.scope.labels, row.by) if row.by else row.scope.labels
        self._totals: dict[tuple[str, ...], Total] = {}

    def labels(self, *values: str) -> Total:
        return self._totals.setdefault(values, Total())

    def collect(self) -> Iterable[Metric]:
        totals = list(self._totals.items())
        if totals or self._labels:
            family = CounterMetricFamily(self._row.name, self._row.help, labels=self._labels)
            for values, total in totals:
                family.add_metric(values, total.value)
            yield family


class Series:
    """A labelled row of a histogram."""

    __slots__ = ("_array", "_bounds", "_counts", "_lock", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._array = np.array(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, values: Sequence[float] | NDArray[np.float64]) -> None:
        if len(values) <= _FEW:
            few = values.tolist() if isinstance(values, np.ndarray) else values
            with self._lock:
                for value in few:
                    self._counts[bisect_left(self._bounds, value)] += 1
                    self._total += value
            return
        first = float(values[0])
        if np.count_nonzero(values == first) == len(values):  # such as elements of one frame
            with self._lock:
                self._counts[bisect_left(self._bounds, first)] += len(values)
                self._total += first * len(values)
            return
        buckets = np.bincount(self._array.searchsorted(values), minlength=len(self._counts))
        total = float(np.add.reduce(values))
        with self._lock:
            self._counts = list(map(add, self._counts, buckets.tolist()))
            self._total += total

    def read(self) -> tuple[list[int], float]:
        """Returns the number of values in each bucket, and the sum of all values."""
        with self._lock:
            return list(self._counts), self._total


class Distributions(Collector):
    """A histogram for many values at once."""

    def __init__(self, row: Histogram) -> None:
        self._row = row
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        return self._series.setdefault(values, Series(self._row.buckets))

    def collect(self) -> Iterable[Metric]:
        row = self._row
        family = HistogramMetricFamily(row.name, row.help, labels=row.scope.labels)
        edges = [*map(repr, map(float, row.buckets)), "+Inf"]
        for values, series in list(self._series.items()):
            counts, total = series.read()
            cumulative = np.cumsum(counts).tolist()
            family.add_metric(values, list(zip(edges, cumulative, strict=True)), total)
        yield family


class Readings(Collector):
    """A gauge, read at each scrape."""

    def __init__(self, row: Gauge) -> None:
        self._row = row
        self._reads: dict[tuple[str, ...], Callable[[], float]] = {}

    def watch(self, values: tuple[str, ...], read: Callable[[], float]) -> None:
        self._reads[values] = read

    def unwatch(self, values: tuple[str, ...]) -> None:
        self._reads.pop(values, None)

    def collect(self) -> Iterable[Metric]:
        row, reads = self._row, list(self._reads.items())
        if reads or row.scope.labels:
            family = GaugeMetricFamily(row.name, row.help, labels=row.scope.labels)
            for values, read in reads:
                family.add_metric(values, float(read()))
            yield family
