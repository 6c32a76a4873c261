"""Elements a second through the server, beside what ONNX Runtime does in-process.

    python -m benchmarks.throughput

256 sessions over one client, one element in flight for each and windows of 8. Limit and loads are
measured in turn, in several rounds, and the medians are compared: on a shared machine the ratios
mean more than the rates.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import onnxruntime
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.limit import Limit
from benchmarks.load import Load, frames, sdk
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

SESSIONS = 256
VOCABULARY = "".join(chr(code) for code in range(32, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = save_lstm(
            Path(folder) / "lstm/1/model.onnx",
            hidden=options.hidden,
            layers=options.layers,
            embedded=64,
            vocabulary=VOCABULARY,
        )
        # One event loop for all loads: gRPC does not like several in a process.
        with (
            ServerProcess(folder) as server,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            measured = measure(runner, server.target, path, options.rounds, options.seconds)
    print_table(options.hidden, options.layers, measured)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rates": measured}, indent=2))


def measure(
    runner: asyncio.Runner, target: str, path: Path, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Elements a second, a figure a round, by what was measured."""
    limit = Limit(path)

    def alone(rows: int, chunk: int) -> Callable[[], float]:
        return lambda: limit.elements_per_second(rows=rows, chunk=chunk, seconds=seconds)

    def through(client: str, window: int) -> Callable[[], float]:
        load = Load(target=target, model="lstm", sessions=SESSIONS, window=window, seconds=seconds)
        drive = {"sdk": sdk, "frames": frames}[client]
        return lambda: runner.run(drive(load))

    kinds = {
        f"in-process, {SESSIONS} x 1": alone(SESSIONS, 1),
        f"in-process, {SESSIONS} x 8": alone(SESSIONS, 8),
        "elman.aio, one in flight": through("sdk", 1),
        "elman.aio, windows of 8": through("sdk", 8),
        "packed frames, one in flight": through("frames", 1),
        "packed frames, windows of 8": through("frames", 8),
    }
    measured: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            measured[kind].append(run())
    return measured


def print_table(hidden: int, layers: int, measured: dict[str, list[float]]) -> None:
    best = max(median(rates) for kind, rates in measured.items() if kind.startswith("in-process"))
    table = Table(title=f"LSTM, H={hidden}, L={layers}, {SESSIONS} sessions over one client")
    table.add_column("what")
    for column in ("elements/s, median", "lowest", "highest", "of the limit"):
        table.add_column(column, justify="right")
    for kind, rates in measured.items():
        table.add_row(
            kind,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{median(rates) / best:.2f}",
        )
    Console().print(table)
    Console().print(" · ".join(f"{key} {value}" for key, value in machine().items()))


def machine() -> dict[str, str]:
    return {
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


if __name__ == "__main__":
    main()
