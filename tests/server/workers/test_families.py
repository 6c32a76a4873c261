"""The metrics of several processes are those of one."""

import urllib.request
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from elman_server.engine.stats import StepStats
from elman_server.telemetry import table
from elman_server.telemetry.exposition import exposed, families, registry_of
from elman_server.telemetry.family import Family, Key
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.observer import EngineObserver
from elman_server.workers.families import Tally, merge


def family(name: str, kind: str, **values: float) -> Family:
    """With a sample for each model."""
    samples: dict[Key, float] = {
        (name, (("model", model),)): value for model, value in values.items()
    }
    return Family(name=name, kind=kind, help="", samples=samples)


def flat(found: Sequence[Family]) -> dict[Key, float]:
    return {key: value for each in found for key, value in each.samples.items()}


def test_samples_with_the_same_labels_are_added_up() -> None:
    one = [family("steps", "counter", a=3, b=1), family("sessions", "gauge", a=2)]
    two = [family("steps", "counter", b=10, c=7), family("sessions", "gauge", a=5)]
    assert merge([one, two]) == [
        family("steps", "counter", a=3, b=11, c=7),
        family("sessions", "gauge", a=7),
    ]


def test_what_is_the_same_of_all_processes_is_told_once() -> None:
    info: Key = ("python_info", (("version", "3.11"),))
    start: Key = ("process_start_time_seconds", ())
    parts = [
        [
            Family(name="python_info", kind="gauge", help="", samples={info: 1}),
            Family(name="process_start_time_seconds", kind="gauge", help="", samples={start: at}),
        ]
        for at in (300.0, 100.0, 200.0)
    ]
    assert flat(merge(parts)) == {info: 1, start: 100.0}


def test_merging_leaves_its_parts_alone() -> None:
    part = [family("steps", "counter", a=1)]
    merge([part, part])
    assert part == [family("steps", "counter", a=1)]


counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000), max_size=3)
parts = st.lists(st.tuples(counts, counts), max_size=5)


@given(parts)
def test_each_sample_is_the_sum_of_those_of_all(told: list[tuple[dict[str, int], ...]]) -> None:
    merged = flat(
        merge([family("steps", "counter", **s), family("open", "gauge", **o)] for s, o in told)
    )
    for index, name in enumerate(("steps", "open")):
        for model in "abc":
            values = [each[index][model] for each in told if model in each[index]]
            assert merged.get((name, (("model", model),)), None) == (
                sum(values) if values else None
            )


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, 100)))))
def test_no_counter_goes_back_whoever_dies_and_no_gauge_outlives_its_process(
    told: list[tuple[int, int | None]],
) -> None:
    """Each place in turn counts so many more, or dies and is started anew."""
    tally, processes, counted = Tally(), [0, 1, 2], [0, 0, 0]
    following, total = 3, 0
    for place, more in told:
        if more is None:
            tally.end(processes[place])
            processes[place], counted[place], following = following, 0, following + 1
        else:
            counted[place] += more
            total += more
            tally.update(
                processes[place],
                [family("steps", "counter", a=counted[place]), family("open", "gauge", a=1)],
            )
        found = flat(tally.families())
        living = len({each for each in processes if each in tally._living})
        assert found.get(("steps", (("model", "a"),)), 0) == total
        assert found.get(("open", (("model", "a"),)), 0) == living


def counted(steps: int) -> CollectorRegistry:
    metrics = Metrics()
    model = metrics.labels(table.MODEL, "letters", "1")
    model.watch(table.SESSIONS, lambda: 1)
    model.watch(table.PENDING_ELEMENTS, lambda: 2)
    model.watch(table.STATE_BYTES, lambda: 3)
    model.watch(table.STATE_SLOTS, lambda: 4)
    observer = EngineObserver(model)
    for _ in range(steps):
        observer.stepped(
            StepStats(batch_size=2, answered=3, seconds=1e-3, queue_delays=np.full(3, 0.5))
        )
    return metrics.registry


def elman(text: bytes) -> list[str]:
    """Lines on what does not differ from process to process."""
    return [line for line in text.decode().splitlines() if "elman_" in line or "grpc_" in line]


def test_one_process_is_told_as_it_tells_itself() -> None:
    registry = counted(3)
    told = registry_of(lambda: merge([families(registry)]))
    assert elman(generate_latest(told)) == elman(generate_latest(registry))


def test_two_are_told_as_one_that_did_what_both_did() -> None:
    parts = [families(counted(3)), families(counted(4))]
    seven = flat([f for f in families(counted(7)) if f.kind != "gauge" and "elman" in f.name])
    both = flat([f for f in merge(parts) if f.kind != "gauge" and "elman" in f.name])
    assert both.keys() == seven.keys()
    assert all(abs(both[key] - seven[key]) < 1e-9 for key in seven)


def test_each_scrape_reads_anew() -> None:
    values = iter([1.0, 2.0])

    def read() -> list[Family]:
        return [family("open", "gauge", a=next(values))]

    with exposed(registry_of(read), "127.0.0.1", 0) as port:
        for value in (b"1.0", b"2.0"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert answer.read().splitlines()[-1] == b'open{model="a"} ' + value


def test_labels_keep_their_order() -> None:
    metric = GaugeMetricFamily("open", "help", labels=("b", "a"))
    metric.add_metric(("1", "2"), 3)
    registry = CollectorRegistry()
    registry.register(type("One", (), {"collect": lambda self: [metric]})())
    (found,) = families(registry)
    assert found.samples == {("open", (("b", "1"), ("a", "2"))): 3}
