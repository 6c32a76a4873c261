"""Elman beside its limits: ONNX Runtime in-process, and a bare gRPC echo.

    python -m benchmarks.performance
    python -m benchmarks.performance --quick --json build/performance.json

Every round measures each limit and each load once, one after another, so that what else the machine
does at a time meets all of them; figures are medians over the rounds, and ratios medians of each
round's own. With `--pin` the server stays on one core and what loads it on another; without, the
server's compute thread may use what the load leaves idle of the other.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import elman
from benchmarks import application, echo
from benchmarks.limit import Limit
from benchmarks.machine import machine, on_core
from benchmarks.models import LARGE, MIDDLE, SMALL, Size
from elman.bench.drive import Result, drive
from elman.bench.load import Load
from elman.bench.usage import Usage
from tests.serverprocess import ServerProcess

_SERVER, _CLIENT = 0, 1
"""Cores."""
_PUSH_NBYTES, _PREDICTION_NBYTES = 24, 420
"""What a frame with one element takes, and one with its prediction, 96 float32."""
_STREAMS = (1, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """A load, and what its throughput is compared with."""

    size: Size
    load: Load
    target: float | None = None
    """Of the limit."""
    echo: bool = False
    """Whether the limit is the echo's messages, and not the runtime's elements."""
    sdk: bool = False
    """Whether an application drives it, and not packed frames."""

    @property
    def name(self) -> str:
        load = self.load
        parts = [f"{load.sessions} sessions", f"window {load.window}"]
        if load.connections > 1:
            parts.append(f"{load.connections} connections")
        if self.sdk:
            parts.append("elman.aio")
        return ", ".join(parts)


def cases(quick: bool) -> list[Case]:
    one = [
        Case(SMALL, Load(sessions=1)),
        Case(SMALL, Load(sessions=64), 0.20),
        Case(SMALL, Load(sessions=256), 0.40),
        Case(SMALL, Load(sessions=1024)),
        Case(SMALL, Load(sessions=256, window=8), 0.88),
        Case(SMALL, Load(sessions=256, window=32)),
        Case(SMALL, Load(sessions=256), sdk=True),
        Case(SMALL, Load(sessions=256, window=8), sdk=True),
        Case(SMALL, Load(sessions=64, connections=64), 0.9, echo=True),
        Case(MIDDLE, Load(sessions=64), 0.6),
        Case(MIDDLE, Load(sessions=256), 0.8),
        Case(MIDDLE, Load(sessions=256, window=8), 0.95),
        Case(LARGE, Load(sessions=256), None),
        Case(LARGE, Load(sessions=256, window=8), 0.95),
    ]
    if quick:
        return [case for case in one if case.target is not None]
    int8 = [
        Case(Size(hidden=size.hidden, layers=size.layers, int8=True), load)
        for size in (SMALL, MIDDLE, LARGE)
        for load in (Load(sessions=256), Load(sessions=256, window=8))
    ]
    return one + int8


@dataclass(frozen=True, slots=True)
class Echoed:
    """What the echo did."""

    per_second: float
    p50: float
    """Seconds."""
    p99: float


@dataclass(slots=True)
class Measured:
    """A figure for each round."""

    limits: dict[str, list[float]] = field(default_factory=dict)
    """Elements a second, by model."""
    echoes: dict[int, list[Echoed]] = field(default_factory=dict)
    """By streams."""
    steps: list[float] = field(default_factory=list)
    """Seconds of a step of one element of the small model."""
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Elements a second, by case."""
    results: dict[int, list[Result]] = field(default_factory=dict)
    """By case; of those that packed frames drive."""


def _anywhere(core: int) -> AbstractContextManager[None]:
    return nullcontext()


class Bench:
    def __init__(self, seconds: float, chosen: Sequence[Case], *, pin: bool = False) -> None:
        self._seconds = seconds
        self._on_core = on_core if pin else _anywhere
        self._cases = chosen
        self._stack = ExitStack()

    def __enter__(self) -> "Bench":
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._limits = {
            size.name: Limit(size.save(folder)) for size in {case.size for case in self._cases}
        }
        with self._on_core(_SERVER):
            self._server = self._stack.enter_context(ServerProcess(str(folder)))
            self._echo = self._stack.enter_context(echo.process(_PREDICTION_NBYTES))
        self._stack.enter_context(self._on_core(_CLIENT))
        # One event loop for all loads: gRPC does not like several in a process.
        self._runner = self._stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        with elman.connect(self._server.target) as client:
            self._models = {model.name: model for model in client.models()}
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def round(self, measured: Measured) -> None:
        for name, limit in self._limits.items():
            best = max(
                limit.elements_per_second(rows=rows, chunk=chunk, seconds=self._seconds / 3)
                for rows, chunk in ((64, 8), (256, 1), (256, 2))
            )
            measured.limits.setdefault(name, []).append(best)
        if SMALL.name in self._limits:
            step = self._limits[SMALL.name].step_seconds(rows=1, chunk=1, seconds=0.2)
            measured.steps.append(step)
        for streams in _STREAMS:
            measured.echoes.setdefault(streams, []).append(self._echoed(streams))
        for number, case in enumerate(self._cases):
            load = replace(case.load, seconds=self._seconds, warm_up=0.3)
            rates = measured.rates.setdefault(number, [])
            if case.sdk:
                rates.append(self._applied(case.size, load))
                continue
            result = self._driven(case.size, load)
            rates.append(result.elements_per_second)
            measured.results.setdefault(number, []).append(result)

    def _echoed(self, streams: int) -> Echoed:
        recorder = self._runner.run(
            echo.loop(self._echo, streams=streams, size=_PUSH_NBYTES, seconds=self._seconds)
        )
        latencies = recorder.latencies()
        assert latencies is not None
        return Echoed(recorder.per_second, latencies.p50, latencies.p99)

    def _applied(self, size: Size, load: Load) -> float:
        return self._runner.run(application.drive(self._server.target, size.name, load))

    def _driven(self, size: Size, load: Load) -> Result:
        return self._runner.run(
            drive(
                self._server.target,
                self._models[size.name],
                load,
                usage=lambda: Usage.scrape(self._server.metrics_url),
            )
        )


def ratios(number: int, case: Case, measured: Measured) -> list[float]:
    """Of the limit, one for each round."""
    if case.echo:
        limits = [each.per_second for each in measured.echoes[case.load.sessions]]
    else:
        limits = measured.limits[case.size.name]
    return [rate / limit for rate, limit in zip(measured.rates[number], limits, strict=True)]


def print_tables(chosen: Sequence[Case], measured: Measured) -> None:
    console = Console(width=140)
    limits = Table(title="Limits", title_justify="left")
    limits.add_column("what")
    limits.add_column("a second", justify="right")
    limits.add_column("p50", justify="right")
    limits.add_column("p99", justify="right")
    for name, rates in measured.limits.items():
        limits.add_row(f"{name} in-process, elements", f"{median(rates):,.0f}")
    for streams, found in measured.echoes.items():
        limits.add_row(
            f"echo, messages of {streams} connections",
            f"{median(each.per_second for each in found):,.0f}",
            f"{median(each.p50 for each in found) * 1e3:.3f} ms",
            f"{median(each.p99 for each in found) * 1e3:.3f} ms",
        )
    console.print(limits)
    table = Table(title="Elman", title_justify="left")
    table.add_column("model")
    table.add_column("load")
    for column in (
        *("elements/s", "of limit", "target", "p50 ms", "p99 ms", "p99.9 ms", "rows/step"),
        *("server µs", "client µs"),
    ):
        table.add_column(column, justify="right")
    for number, case in enumerate(chosen):
        results = measured.results.get(number, [])
        latencies = [result.latencies for result in results if result.latencies is not None]
        table.add_row(
            case.size.name,
            case.name,
            f"{median(measured.rates[number]):,.0f}",
            f"{median(ratios(number, case, measured)):.2f}" + (" of echo" if case.echo else ""),
            "" if case.target is None else f"{case.target:.2f}",
            _middle([each.p50 * 1e3 for each in latencies]),
            _middle([each.p99 * 1e3 for each in latencies]),
            _middle([each.p999 * 1e3 for each in latencies]),
            _middle([result.rows_per_step or 0 for result in results], digits=1),
            _middle([(result.server_cpu or 0) * 1e6 for result in results]),
            _middle([result.client_cpu * 1e6 for result in results]),
        )
    console.print(table)
    if measured.steps:
        alone = median(each.p50 for each in measured.echoes[1]) + median(measured.steps)
        p50s = [
            median(r.latencies.p50 for r in measured.results[number] if r.latencies is not None)
            for number, case in enumerate(chosen)
            if case.size is SMALL and case.load.sessions == 1
        ]
        for p50 in p50s:
            console.print(
                f"one session: p50 {p50 * 1e3:.3f} ms; echo's p50 and one step in-process "
                f"{alone * 1e3:.3f} ms; ratio {p50 / alone:.2f} (target 1.25)"
            )


def _middle(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement")
    parser.add_argument("--quick", action="store_true", help="only loads that have a target")
    parser.add_argument("--pin", action="store_true", help="server and load to a core each")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--only", help="only loads whose name holds this")
    options = parser.parse_args()
    chosen = [
        case
        for case in cases(options.quick)
        if options.only is None or options.only in f"{case.size.name}: {case.name}"
    ]
    measured, begun = Measured(), time.perf_counter()
    with Bench(options.seconds, chosen, pin=options.pin) as bench:
        for _ in range(options.rounds):
            bench.round(measured)
    print_tables(chosen, measured)
    facts = {**machine(), "pinned": str(options.pin), "load average": f"{os.getloadavg()[0]:.1f}"}
    Console(width=140).print(" · ".join(f"{key} {value}" for key, value in facts.items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(chosen, measured, facts), indent=2))
    print(f"{time.perf_counter() - begun:.0f} s")


def document(chosen: Sequence[Case], measured: Measured, facts: dict[str, str]) -> dict[str, Any]:
    return {
        "machine": facts,
        "limits": measured.limits,
        "echoes": {
            streams: [asdict(each) for each in found] for streams, found in measured.echoes.items()
        },
        "steps": measured.steps,
        "cases": [
            {
                "model": case.size.name,
                "load": case.name,
                "target": case.target,
                "elements_per_second": measured.rates[number],
                "ratios": ratios(number, case, measured),
                "rounds": [
                    {
                        "latencies": result.latencies and asdict(result.latencies),
                        "rows_per_step": result.rows_per_step,
                        "server_cpu": result.server_cpu,
                        "client_cpu": result.client_cpu,
                        "resident_bytes": result.server and result.server.resident_bytes,
                    }
                    for result in measured.results.get(number, [])
                ],
            }
            for number, case in enumerate(chosen)
        ],
    }


if __name__ == "__main__":
    main()
