"""Metrics of a server: the rows of `table.py` with their values, in a registry.

Elements are counted by step, not singly: a histogram takes the values of a whole step at once.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from elman_server.telemetry import table
from elman_server.telemetry.collectors import Distributions, Readings, Totals
from elman_server.telemetry.exposition import process_registry
from elman_server.telemetry.table import Counter, Gauge, Histogram, Scope


class Metrics:
    """All metrics of a server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = process_registry()
        self.counters: dict[Counter, Totals] = {}
        self.gauges: dict[Gauge, Readings] = {}
        self.histograms: dict[Histogram, Distributions] = {}
        for row in table.ROWS:
            match row:
                case Counter():
                    self.registry.register(self.counters.setdefault(row, Totals(row)))
                case Gauge():
                    self.registry.register(self.gauges.setdefault(row, Readings(row)))
                case Histogram():
                    self.registry.register(self.histograms.setdefault(row, Distributions(row)))

    def labels(self, scope: Scope, *values: str) -> "LabelledMetrics":
        """Returns the metrics of a scope with the values of its labels. The counters and histograms
        are exposed from now on."""
        return LabelledMetrics(self, scope, values)


class LabelledMetrics:
    """Metrics of a scope, such as of a version of a model."""

    def __init__(self, metrics: Metrics, scope: Scope, values: tuple[str, ...]) -> None:
        if len(values) != len(scope.labels):
            raise ValueError(f"labels are {', '.join(scope.labels)}; values are {values}")
        self._metrics = metrics
        self._scope = scope
        self._values = values
        self._totals = {
            row: totals.labels(*values)
            for row, totals in metrics.counters.items()
            if row.scope is scope and not row.by
        }
        self._series = {
            row: series.labels(*values)
            for row, series in metrics.histograms.items()
            if row.scope is scope
        }
        for row, totals in metrics.counters.items():
            if row.scope is scope:
                for value in row.start:
                    totals.labels(*values, value)

    def inc(self, row: Counter, amount: int = 1, *, by: str = "") -> None:
        """Counts. `by` is the value of the label `row.by`, if the row has one."""
        if by:
            self._metrics.counters[row].labels(*self._values, by).value += amount
        else:
            self._totals[row].value += amount

    def observe(self, row: Histogram, observed: Sequence[float] | NDArray[np.float64]) -> None:
        self._series[row].observe(observed)

    def watch(self, row: Gauge, read: Callable[[], float]) -> None:
        """Reads a gauge at each scrape from now on."""
        self._metrics.gauges[row].watch(self._values, read)

    def unwatch(self) -> None:
        """Stops reading the gauges."""
        for row, readings in self._metrics.gauges.items():
            if row.scope is self._scope:
                readings.unwatch(self._values)
