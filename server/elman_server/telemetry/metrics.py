"""Metrics of a server. Only this module and `exposition.py` import prometheus_client.

Elements are counted by step, not singly: a histogram takes a whole step's values at once.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from elman_server.engine.session import EndReason
from elman_server.engine.stats import StepStats
from elman_server.errors import Overloaded, ShuttingDown
from elman_server.telemetry.exposition import process_registry

_LABELS = ("model", "version")
_SECONDS = (
    *(50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3),
    *(1.0, 2.0, 5.0, 10.0),
)
_FEW = 8
"""Number of values up to which a Python loop counts faster than numpy."""
_SIZES = tuple(float(2**exponent) for exponent in range(13))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Values of a model, read at each scrape."""

    sessions: Callable[[], int]
    pending_elements: Callable[[], int]
    state_bytes: Callable[[], int]
    state_slots: Callable[[], int]


class Metrics:
    """All metrics of a server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = process_registry()

        def counter(name: str, text: str, *more: str) -> "Counter":
            return Counter(name, text, (*_LABELS, *more), self.registry)

        self._opened = counter("elman_sessions_opened", "Sessions that were opened.")
        self._resumed = counter(
            "elman_sessions_resumed", "Sessions that were opened from a ticket."
        )
        self._closed = counter("elman_sessions_closed", "Sessions that ended, by why.", "reason")
        self._rejected = counter(
            "elman_sessions_rejected", "Sessions that were refused at open, by why.", "reason"
        )
        self._tickets_issued = counter("elman_tickets_issued", "Tickets that were sent.")
        self._ticket_bytes = counter("elman_ticket_bytes", "Bytes of tickets that were sent.")
        self._tickets_rejected = counter(
            "elman_tickets_rejected", "Tickets that were refused, by why.", "reason"
        )
        self._loads = counter("elman_model_loads", "Times that a version was loaded and probed.")
        self._load_failures = counter(
            "elman_model_load_failures", "Times that a version failed to load or its probe."
        )
        self._unloads = counter("elman_model_unloads", "Times that a version was unloaded.")
        self._elements = counter("elman_elements", "Elements that were answered.")
        self._nonfinite = counter(
            "elman_nonfinite_predictions", "Predictions that hold NaN or infinity."
        )
        self._steps = counter("elman_steps", "Runs of the step model.")

        def histogram(name: str, text: str, bounds: Sequence[float]) -> "Histogram":
            made = Histogram(name, text, bounds)
            self.registry.register(made)
            return made

        self._step_duration = histogram(
            "elman_step_duration_seconds", "How long a step ran.", _SECONDS
        )
        self._step_batch_size = histogram(
            "elman_step_batch_size", "How many sessions shared a step.", _SIZES
        )
        self._element_latency = histogram(
            "elman_element_latency_seconds",
            "From an element's arrival to its prediction's hand-over to gRPC.",
            _SECONDS,
        )
        self._queue_delay = histogram(
            "elman_queue_delay_seconds", "From an element's arrival to its step's start.", _SECONDS
        )
        self._gauges = _GaugeCollector()
        self.registry.register(self._gauges)

        def rpc_counter(name: str, text: str, *more: str) -> "Counter":
            labels = ("grpc_type", "grpc_service", "grpc_method", *more)
            return Counter(name, text, labels, self.registry)

        self._calls_given_up = Counter(
            "elman_calls_given_up",
            "Calls that were ended because their clients did not read, by why.",
            ("reason",),
            self.registry,
        )
        self._rpcs_started = rpc_counter("grpc_server_started", "RPCs that were started.")
        self._rpcs_handled = rpc_counter(
            "grpc_server_handled", "RPCs that were completed, by status.", "grpc_code"
        )
        self._refused = Counter(
            "elman_calls_refused",
            "Calls that were refused, or ended for what their peers did, by why.",
            ("reason",),
            self.registry,
        )
        self._received = rpc_counter("grpc_server_msg_received", "Messages that were received.")
        self._sent = rpc_counter("grpc_server_msg_sent", "Messages that were sent.")

    def call_given_up(self, reason: str) -> None:
        self._calls_given_up.labels(reason).inc()

    def rpc(self, service: str, method: str, kind: str) -> "RpcMetrics":
        """Metrics of a gRPC method. `kind` is "unary", "server_stream" or "bidi_stream"."""
        labels = (kind, service, method)
        return RpcMetrics(
            started=self._rpcs_started.labels(*labels),
            received=self._received.labels(*labels),
            sent=self._sent.labels(*labels),
            handled=lambda code: self._rpcs_handled.labels(*labels, code).inc(),
        )

    def refused(self, reason: str) -> "Total":
        """Counter of calls refused for a reason."""
        return self._refused.labels(reason)

    def watch_calls(self, under_way: Callable[[], int]) -> None:
        """Reads the number of calls at each scrape."""
        self.registry.register(_Reading("elman_calls", "Calls that are under way.", under_way))

    def model(self, name: str, version: str) -> "ModelMetrics":
        """Metrics of a model."""
        labels = (name, version)
        return ModelMetrics(
            opened=self._opened.labels(*labels),
            resumed=self._resumed.labels(*labels),
            closed={reason: self._closed.labels(*labels, str(reason)) for reason in EndReason},
            rejected={
                reason: self._rejected.labels(*labels, reason)
                for reason in (Overloaded.reason, ShuttingDown.reason, "rate", "bytes")
            },
            tickets_issued=self._tickets_issued.labels(*labels),
            ticket_bytes=self._ticket_bytes.labels(*labels),
            tickets_rejected=lambda reason: self._tickets_rejected.labels(*labels, reason),
            elements=self._elements.labels(*labels),
            nonfinite=self._nonfinite.labels(*labels),
            steps=self._steps.labels(*labels),
            step_duration=self._step_duration.series(labels),
            step_batch_size=self._step_batch_size.series(labels),
            element_latency=self._element_latency.series(labels),
            queue_delay=self._queue_delay.series(labels),
        )

    def lease_keeper(self) -> "KeeperMetrics":
        """Metrics of named sessions, for a server with a state store."""

        def total(name: str, text: str) -> Total:
            return Counter(name, text, (), self.registry).labels()

        return KeeperMetrics(
            checkpoints=total(
                "elman_checkpoints", "Checkpoints of named sessions that were saved."
            ),
            nbytes=total("elman_checkpoint_bytes", "Bytes of checkpoints that were saved."),
            failures=total("elman_state_store_failures", "Calls that the state store failed."),
        )

    def watch_keeper(
        self,
        *,
        sessions: Callable[[], int],
        waiting: Callable[[], int],
        down: Callable[[], bool],
    ) -> None:
        """Reads the gauges of named sessions at each scrape."""
        self.registry.register(
            _Reading("elman_named_sessions", "Named sessions that are open.", sessions)
        )
        self.registry.register(
            _Reading(
                "elman_named_sessions_waiting",
                "Named sessions whose predictions wait for the state store.",
                waiting,
            )
        )
        self.registry.register(
            _Reading(
                "elman_state_store_down",
                "Server processes that can't use the state store now.",
                down,
            )
        )

    def watch(self, name: str, version: str, gauges: Gauges) -> None:
        """Reads a model's gauges at each scrape."""
        self._gauges.watch((name, version), gauges)

    def unwatch(self, name: str, version: str) -> None:
        """Stops reading a model's gauges."""
        self._gauges.unwatch((name, version))

    def loading(self, name: str, version: str) -> "LoadMetrics":
        """Metrics of loading and unloading a version."""
        labels = (name, version)
        return LoadMetrics(
            loaded=self._loads.labels(*labels),
            failed=self._load_failures.labels(*labels),
            unloaded=self._unloads.labels(*labels),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcMetrics:
    started: "Total"
    received: "Total"
    sent: "Total"
    handled: Callable[[str], None]
    """Counts an RPC by the name of its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperMetrics:
    checkpoints: "Total"
    nbytes: "Total"
    failures: "Total"

    def saved(self, checkpoints: int, nbytes: int) -> None:
        self.checkpoints.inc(checkpoints)
        self.nbytes.inc(nbytes)

    def failed(self) -> None:
        self.failures.inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMetrics:
    loaded: "Total"
    failed: "Total"
    unloaded: "Total"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetrics:
    """An `Observer` of a model's engine."""

    opened: "Total"
    resumed: "Total"
    closed: dict[EndReason, "Total"]
    rejected: dict[str, "Total"]
    tickets_issued: "Total"
    ticket_bytes: "Total"
    tickets_rejected: Callable[[str], "Total"]
    elements: "Total"
    nonfinite: "Total"
    steps: "Total"
    step_duration: "Series"
    step_batch_size: "Series"
    element_latency: "Series"
    queue_delay: "Series"

    def session_opened(self) -> None:
        self.opened.inc()

    def session_resumed(self) -> None:
        self.resumed.inc()

    def session_ended(self, reason: EndReason) -> None:
        self.closed[reason].inc()

    def session_rejected(self, reason: str) -> None:
        self.rejected[reason].inc()

    def ticket_issued(self, nbytes: int) -> None:
        self.tickets_issued.inc()
        self.ticket_bytes.inc(nbytes)

    def ticket_rejected(self, reason: str) -> None:
        self.tickets_rejected(reason).inc()

    def stepped(self, stats: StepStats) -> None:
        self.steps.inc()
        self.elements.inc(stats.answered)
        self.nonfinite.inc(stats.nonfinite)
        self.step_duration.observe([stats.seconds])
        self.step_batch_size.observe([stats.batch_size])
        self.queue_delay.observe(stats.queue_delays)

    def delivered(self, latencies: NDArray[np.float64]) -> None:
        """Records `latencies` in seconds, from an element's arrival to its hand-over."""
        self.element_latency.observe(latencies)


class Total:
    """A labelled row of a counter. Only the event loop counts, so no lock is necessary."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


class Counter(Collector):
    """A counter with very little overhead: some counters count every message."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._label_names = labels
        self._totals: dict[tuple[str, ...], Total] = {}
        registry.register(self)

    def labels(self, *values: str) -> Total:
        return self._totals.setdefault(values, Total())

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._label_names)
        for values, total in list(self._totals.items()):
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


class Histogram(Collector):
    """A histogram for many values at once."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._series: dict[tuple[str, ...], Series] = {}

    def series(self, labels: tuple[str, ...]) -> Series:
        return self._series.setdefault(labels, Series(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=_LABELS)
        edges = [*map(repr, map(float, self._bounds)), "+Inf"]
        for labels, series in list(self._series.items()):
            counts, total = series.read()
            cumulative = np.cumsum(counts).tolist()
            family.add_metric(labels, list(zip(edges, cumulative, strict=True)), total)
        yield family


_GAUGES: tuple[tuple[str, str, Callable[[Gauges], int]], ...] = (
    ("elman_sessions", "Sessions that are open.", lambda g: g.sessions()),
    ("elman_pending_elements", "Elements that wait for a step.", lambda g: g.pending_elements()),
    ("elman_state_bytes", "Bytes reserved for sessions' state.", lambda g: g.state_bytes()),
    ("elman_state_slots", "Rows of state in use.", lambda g: g.state_slots()),
)


class _Reading(Collector):
    """A gauge without labels."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(self._name, self._text, value=float(self._read()))


class _GaugeCollector(Collector):
    def __init__(self) -> None:
        self._watched: dict[tuple[str, str], Gauges] = {}

    def watch(self, labels: tuple[str, str], gauges: Gauges) -> None:
        self._watched[labels] = gauges

    def unwatch(self, labels: tuple[str, str]) -> None:
        del self._watched[labels]

    def collect(self) -> Iterable[Metric]:
        for name, text, read in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=_LABELS)
            for labels, gauges in list(self._watched.items()):
                family.add_metric(labels, read(gauges))
            yield family
