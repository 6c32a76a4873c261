"""Two workers beside one: `elman serve --workers 2` and `elman serve`, on the same loads.

    python -m benchmarks.workers
    python -m benchmarks.workers --workers 4 --rounds 7 --json build/workers.json

Both servers run all the time; every round measures each load on one and then on the other, in turn
first, so that what else the machine does meets both. Figures are medians over the rounds, and
ratios medians of each round's own. The load runs on the same cores as the servers, so the cores
that it uses are told beside: what it needs is missing to the workers.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import elman
from benchmarks.machine import machine
from benchmarks.models import LARGE, MIDDLE, SMALL, Size
from elman.bench.drive import Result, drive
from elman.bench.load import Load
from elman.bench.usage import Usage
from tests.serverprocess import ServerProcess


@dataclass(frozen=True, slots=True)
class Case:
    size: Size
    load: Load

    @property
    def name(self) -> str:
        load = self.load
        each = load.sessions // load.connections
        return f"{load.connections} connections x {each}, window {load.window}"


CASES = (
    Case(LARGE, Load(sessions=256, window=8, connections=8)),
    Case(MIDDLE, Load(sessions=256, window=8, connections=8)),
    Case(MIDDLE, Load(sessions=64, connections=64)),
    Case(SMALL, Load(sessions=64, connections=64)),
)
"""Whose steps take nearly all the time, down to one whose messages do."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A result for each round."""

    case: Case
    one: list[Result] = field(default_factory=list)
    several: list[Result] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [
            more.elements_per_second / one.elements_per_second
            for one, more in zip(self.one, self.several, strict=True)
        ]


def compare(workers: int, cases: Sequence[Case], *, rounds: int, seconds: float) -> list[Compared]:
    """Measures each load `rounds` times on either server."""
    compared = [Compared(case) for case in cases]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in {case.size for case in cases}:
            size.save(folder)
        one = stack.enter_context(ServerProcess(str(folder)))
        several = stack.enter_context(ServerProcess(str(folder), "--workers", str(workers)))
        # One event loop for all loads: gRPC does not like several in a process.
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        with elman.connect(one.target) as client:
            models = {model.name: model for model in client.models()}

        def measure(server: ServerProcess, case: Case) -> Result:
            return runner.run(
                drive(
                    server.target,
                    models[case.size.name],
                    replace(case.load, seconds=seconds, warm_up=0.3),
                    usage=lambda: Usage.scrape(server.metrics_url),
                )
            )

        for number in range(rounds):
            for each in compared:
                turns = [(one, each.one), (several, each.several)]
                for server, results in turns if number % 2 == 0 else reversed(turns):
                    results.append(measure(server, each.case))
    return compared


def print_table(workers: int, compared: Sequence[Compared]) -> None:
    table = Table(title=f"{workers} workers beside one process", title_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("load: sessions on", no_wrap=True)
    for column in (
        *("one: elements/s", f"{workers}: elements/s", "ratio"),
        *("one: p99 ms", f"{workers}: p99 ms"),
        *("one: server, load cores", f"{workers}: server, load cores"),
        *("one: rows/step", f"{workers}: rows/step"),
    ):
        table.add_column(column, justify="right")
    for each in compared:
        table.add_row(
            each.case.size.name,
            each.case.name,
            *(_middle(f, _per_second, "{:,.0f}") for f in (each.one, each.several)),
            f"{median(each.ratios):.2f} ({min(each.ratios):.2f}-{max(each.ratios):.2f})",
            *(_middle(found, _p99, "{:.1f}") for found in (each.one, each.several)),
            *(
                f"{_middle(found, _server_cores, '{:.2f}')}, {_middle(found, _cores, '{:.2f}')}"
                for found in (each.one, each.several)
            ),
            *(
                _middle(f, lambda r: r.rows_per_step or 0, "{:.0f}")
                for f in (each.one, each.several)
            ),
        )
    Console(width=170).print(table)


def _middle(results: Sequence[Result], figure: Callable[[Result], float], form: str) -> str:
    return form.format(median(figure(result) for result in results))


def _per_second(result: Result) -> float:
    return result.elements_per_second


def _p99(result: Result) -> float:
    return result.latencies.p99 * 1e3 if result.latencies else 0.0


def _server_cores(result: Result) -> float:
    """How many it kept busy."""
    return (result.server_cpu or 0) * result.elements_per_second


def _cores(result: Result) -> float:
    """How many the load kept busy."""
    return result.client_cpu * result.elements_per_second


def document(workers: int, compared: Sequence[Compared], facts: dict[str, str]) -> dict[str, Any]:
    return {
        "machine": facts,
        "workers": workers,
        "cases": [
            {
                "model": each.case.size.name,
                "load": each.case.name,
                "ratios": each.ratios,
                "one": [asdict(result) for result in each.one],
                "several": [asdict(result) for result in each.several],
            }
            for each in compared
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement")
    parser.add_argument("--only", help="only loads whose name holds this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    cases = [
        case
        for case in CASES
        if options.only is None or options.only in f"{case.size.name}: {case.name}"
    ]
    compared = compare(options.workers, cases, rounds=options.rounds, seconds=options.seconds)
    print_table(options.workers, compared)
    facts = {**machine(), "load average": f"{os.getloadavg()[0]:.1f}"}
    Console(width=170).print(" · ".join(f"{key} {value}" for key, value in facts.items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(options.workers, compared, facts), indent=2))


if __name__ == "__main__":
    main()
