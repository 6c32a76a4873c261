"""The figures are right, and are where dashboards look for them."""

import urllib.request
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.stats import StepStats
from elman_server.errors import StartError
from elman_server.telemetry import collectors, table
from elman_server.telemetry.collectors import Series
from elman_server.telemetry.exposition import exposed
from elman_server.telemetry.metrics import LabelledMetrics, Metrics
from elman_server.telemetry.observer import EngineObserver

BOUNDS = (0.5, 1.0, 2.0, 5.0)


@pytest.fixture
def all_metrics() -> Metrics:
    return Metrics()


def samples(found: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(found.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Metrics, name: str, **labels: str) -> float:
    return samples(found)[name, frozenset(labels.items())]


def label_names(found: Metrics) -> dict[str, set[frozenset[str]]]:
    """Names of the labels of each sample, by the sample's name."""
    names: dict[str, set[frozenset[str]]] = {}
    for name, labels in samples(found):
        names.setdefault(name, set()).add(frozenset(dict(labels)))
    return names


def exposed_as(row: table.Row) -> list[tuple[str, frozenset[str]]]:
    """Samples of a row: names, and names of labels."""
    labels = frozenset(row.scope.labels)
    match row:
        case table.Gauge():
            return [(row.name, labels)]
        case table.Counter():
            return [(f"{row.name}_total", labels | {row.by} if row.by else labels)]
        case table.Histogram():
            return [
                (f"{row.name}_bucket", labels | {"le"}),
                (f"{row.name}_count", labels),
                (f"{row.name}_sum", labels),
            ]


def watch(metrics: LabelledMetrics, scope: table.Scope = table.MODEL) -> None:
    """Reads 1 for each gauge of a scope, such as of a model."""
    for row in table.ROWS:
        if isinstance(row, table.Gauge) and row.scope is scope:
            metrics.watch(row, lambda: 1)


observations = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10, allow_subnormal=False)),
        st.integers(1, 50),
    ),
    max_size=40,
)


def observed(values: Iterable[tuple[float, int]]) -> tuple[list[int], float]:
    series = Series(BOUNDS)
    series.observe(np.array([value for value, count in values for _ in range(count)]))
    return series.read()


def bucket(value: float) -> int:
    """The first bound that is not below it."""
    return next((i for i, bound in enumerate(BOUNDS) if value <= bound), len(BOUNDS))


@given(observations)
def test_each_value_counts_in_the_first_bucket_whose_bound_is_not_below_it(
    values: list[tuple[float, int]],
) -> None:
    counts, total = observed(values)
    expected = [0] * (len(BOUNDS) + 1)
    for value, count in values:
        expected[bucket(value)] += count
    assert counts == expected
    assert total == pytest.approx(sum(value * count for value, count in values))


@given(observations.filter(lambda values: len(values) > collectors._FEW))
def test_many_values_at_once_count_as_they_do_one_by_one(
    values: list[tuple[float, int]],
) -> None:
    series = Series(BOUNDS)
    for value, count in values:
        for _ in range(count):
            series.observe([value])
    (counts, total), (expected_counts, expected_total) = observed(values), series.read()
    assert counts == expected_counts
    assert total == pytest.approx(expected_total)


def test_buckets_are_cumulative(all_metrics: Metrics) -> None:
    model = all_metrics.labels(table.MODEL, "m", "1")
    model.observe(table.STEP_BATCH_SIZE, np.repeat([1.0, 2.0, 3.0, 5000.0], [1, 10, 100, 1000]))
    buckets = {
        dict(labels)["le"]: count
        for (name, labels), count in samples(all_metrics).items()
        if name == "elman_step_batch_size_bucket"
    }
    assert [buckets[edge] for edge in ("1.0", "2.0", "4.0", "4096.0", "+Inf")] == [
        1,
        11,
        111,
        111,
        1111,
    ]
    labels = {"model": "m", "version": "1"}
    assert value(all_metrics, "elman_step_batch_size_count", **labels) == 1111
    assert value(all_metrics, "elman_step_batch_size_sum", **labels) == 1 + 20 + 300 + 5_000_000


def test_latencies_are_told_apart_from_50_microseconds_on(all_metrics: Metrics) -> None:
    model = all_metrics.labels(table.MODEL, "m", "1")
    model.observe(table.ELEMENT_LATENCY, np.array([49e-6, 51e-6]))
    labels = {"model": "m", "version": "1"}
    name = "elman_element_latency_seconds_bucket"
    assert value(all_metrics, name, le="5e-05", **labels) == 1
    assert value(all_metrics, name, le="0.0001", **labels) == 2


def test_every_metric_is_there_before_anything_happened(all_metrics: Metrics) -> None:
    for scope in {row.scope for row in table.ROWS}:
        watch(all_metrics.labels(scope, *scope.labels), scope)
    # The values of some labels are known only when something is counted.
    rows = [
        row for row in table.ROWS if not isinstance(row, table.Counter) or row.start or not row.by
    ]
    expected = {name: {names} for row in rows for name, names in exposed_as(row)}
    assert {
        name: labels
        for name, labels in label_names(all_metrics).items()
        if name.startswith(("elman_", "grpc_"))
    } == expected


def test_metrics_have_the_labels_that_dashboards_select_by(all_metrics: Metrics) -> None:
    watch(all_metrics.labels(table.MODEL, "m", "3"))
    all_metrics.labels(table.METHOD, "bidi_stream", "elman.v1.Inference", "Stream")
    found = label_names(all_metrics)
    plain = frozenset({"model", "version"})
    with_reason = plain | {"reason"}
    rpc = frozenset({"grpc_type", "grpc_service", "grpc_method"})
    expected = {
        "elman_sessions": plain,
        "elman_sessions_opened_total": plain,
        "elman_sessions_closed_total": with_reason,
        "elman_sessions_rejected_total": with_reason,
        "elman_elements_total": plain,
        "elman_nonfinite_predictions_total": plain,
        "elman_steps_total": plain,
        "elman_step_duration_seconds_bucket": plain | {"le"},
        "elman_step_duration_seconds_count": plain,
        "elman_step_batch_size_bucket": plain | {"le"},
        "elman_element_latency_seconds_bucket": plain | {"le"},
        "elman_queue_delay_seconds_bucket": plain | {"le"},
        "elman_pending_elements": plain,
        "elman_state_bytes": plain,
        "elman_state_slots": plain,
        "grpc_server_started_total": rpc,
        "grpc_server_msg_received_total": rpc,
        "grpc_server_msg_sent_total": rpc,
    }
    assert {name: found.get(name) for name in expected} == {
        name: {labels} for name, labels in expected.items()
    }


def test_every_reason_is_there_from_the_start(all_metrics: Metrics) -> None:
    all_metrics.labels(table.MODEL, "m", "1")
    reasons = {
        dict(labels)["reason"]
        for name, labels in samples(all_metrics)
        if name == "elman_sessions_closed_total"
    }
    assert reasons == {str(reason) for reason in EndReason}


def test_an_engines_events_are_counted(all_metrics: Metrics) -> None:
    model = EngineObserver(all_metrics.labels(table.MODEL, "m", "1"))
    model.session_opened()
    model.session_opened()
    model.session_ended(EndReason.FINISHED)
    model.session_rejected("overloaded")
    model.stepped(
        StepStats(
            batch_size=2,
            answered=7,
            seconds=0.003,
            queue_delays=np.repeat([0.001, 0.25], [3, 4]),
            nonfinite=3,
        )
    )
    labels = {"model": "m", "version": "1"}
    counted = {
        "elman_sessions_opened_total": 2,
        "elman_elements_total": 7,
        "elman_nonfinite_predictions_total": 3,
        "elman_steps_total": 1,
        "elman_step_duration_seconds_count": 1,
        "elman_step_duration_seconds_sum": 0.003,
        "elman_step_batch_size_sum": 2,
        "elman_queue_delay_seconds_count": 7,
        "elman_queue_delay_seconds_sum": pytest.approx(0.001 * 3 + 0.25 * 4),
    }
    assert {name: value(all_metrics, name, **labels) for name in counted} == counted
    closed = "elman_sessions_closed_total"
    assert value(all_metrics, closed, reason="finished", **labels) == 1
    assert value(all_metrics, closed, reason="cancelled", **labels) == 0
    rejected = "elman_sessions_rejected_total"
    assert value(all_metrics, rejected, reason="overloaded", **labels) == 1


def test_gauges_are_read_when_they_are_asked_for(all_metrics: Metrics) -> None:
    now = {"sessions": 1}
    model = all_metrics.labels(table.MODEL, "m", "1")
    model.watch(table.SESSIONS, lambda: now["sessions"])
    first = value(all_metrics, "elman_sessions", model="m", version="1")
    now["sessions"] = 2
    second = value(all_metrics, "elman_sessions", model="m", version="1")
    assert (first, second) == (1, 2)


def test_models_are_counted_apart(all_metrics: Metrics) -> None:
    all_metrics.labels(table.MODEL, "m", "1").inc(table.SESSIONS_OPENED)
    all_metrics.labels(table.MODEL, "m", "2")
    opened = "elman_sessions_opened_total"
    assert value(all_metrics, opened, model="m", version="1") == 1
    assert value(all_metrics, opened, model="m", version="2") == 0


def test_rpcs_are_counted_by_method_and_status(all_metrics: Metrics) -> None:
    rpc = all_metrics.labels(table.METHOD, "unary", "elman.v1.Inference", "Predict")
    rpc.inc(table.RPCS_STARTED)
    rpc.inc(table.RPCS_HANDLED, by="NOT_FOUND")
    labels = {
        "grpc_type": "unary",
        "grpc_service": "elman.v1.Inference",
        "grpc_method": "Predict",
    }
    assert value(all_metrics, "grpc_server_started_total", **labels) == 1
    handled = "grpc_server_handled_total"
    assert value(all_metrics, handled, grpc_code="NOT_FOUND", **labels) == 1


def test_metrics_are_served_over_http(all_metrics: Metrics) -> None:
    with exposed(all_metrics.registry, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"process_resident_memory_bytes", "python_gc_collections", "elman_steps"} <= names


def test_a_port_that_is_taken_is_an_error(all_metrics: Metrics) -> None:
    with exposed(all_metrics.registry, "127.0.0.1", 0) as port:
        taken = rf"^metrics_port {port} on 127\.0\.0\.1: Address already in use$"
        with (
            pytest.raises(StartError, match=taken),
            exposed(Metrics().registry, "127.0.0.1", port),
        ):
            pass


def test_a_model_that_is_gone_has_no_gauges_and_keeps_what_it_counted(all_metrics: Metrics) -> None:
    models = {version: all_metrics.labels(table.MODEL, "m", version) for version in ("1", "2")}
    loading = {version: all_metrics.labels(table.LOADING, "m", version) for version in models}
    for version, model in models.items():
        watch(model)
        model.inc(table.SESSIONS_OPENED)
        loading[version].inc(table.LOADS)
    models["1"].unwatch()
    loading["1"].inc(table.UNLOADS)
    told = {(name, dict(labels).get("version")) for name, labels in samples(all_metrics)}
    for gauge in ("sessions", "pending_elements", "state_bytes", "state_slots"):
        assert (f"elman_{gauge}", "1") not in told
        assert value(all_metrics, f"elman_{gauge}", model="m", version="2") == 1
    for name in ("sessions_opened", "model_loads", "model_unloads"):
        assert value(all_metrics, f"elman_{name}_total", model="m", version="1") == 1
