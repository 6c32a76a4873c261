"""Starts what is compared, and measures it in rounds."""

import asyncio
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Self

import grpc
import uvloop

import elman
from benchmarks import application, echo
from benchmarks.limit import Limit
from benchmarks.machine import on_core
from benchmarks.models import SMALL
from benchmarks.performance import bulk, crowd, start, whole
from benchmarks.performance.cases import Case
from benchmarks.performance.run import Beside, Echoed, Figures, Round, Run, Whole
from elman.bench.drive import Result, drive
from elman.bench.load import Load
from elman.bench.peer import LoadFailed
from elman.bench.recorder import Latencies
from elman.bench.usage import Usage
from tests.serverprocess import ServerProcess

FAILURES = (
    *(LoadFailed, elman.ElmanError, grpc.RpcError),
    *(OSError, RuntimeError, subprocess.SubprocessError),
)
"""What ends one measurement and not the others."""

OTHERS = ("beside", "map", "predict", "crowd", "start")
"""What is measured beside the cases."""

_SERVER, _CLIENT = 0, 1
"""Cores."""
_PUSH_NBYTES, _PREDICTION_NBYTES = 24, 420
"""What a frame with one element takes, and one with its prediction, 96 float32."""
_BATCHES = ((64, 8), (256, 1), (256, 2))
"""Rows and chunks of steps, one of which is the best for the runtime alone."""


def _anywhere(core: int) -> AbstractContextManager[None]:
    return nullcontext()


class Bench:
    """`cases` are loads of one server; `others` are of `OTHERS`.

    Within its block a server and an echo run, and this process is where the loads come from.
    """

    def __init__(
        self,
        seconds: float,
        cases: Sequence[Case],
        others: Sequence[str] = (),
        *,
        elements: int = 200_000,
        pin: bool = False,
    ) -> None:
        """`seconds`: for each measurement. `elements`: of whole sequences, in each round."""
        self._seconds = seconds
        self._cases = cases
        self._others = others
        self._elements = elements
        self._on_core = on_core if pin else _anywhere
        self._streams = sorted({1} | {case.connections for case in cases if case.echoed})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sizes = {case.size for case in self._cases} | {SMALL}
            paths = {size.name: size.save(folder) for size in sorted(sizes, key=str)}
            self._small = paths[SMALL.name]
            self._limits = {name: Limit(path) for name, path in paths.items()}
            self._best = dict.fromkeys(paths, _BATCHES[0])
            with self._on_core(_SERVER):
                self._server = stack.enter_context(ServerProcess(str(folder)))
                self._echo = stack.enter_context(echo.process(_PREDICTION_NBYTES))
            stack.enter_context(self._on_core(_CLIENT))
            # One event loop for all loads: gRPC does not like several in a process.
            self._runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            with elman.connect(self._server.target) as client:
                self._models = {model.name: model for model in client.models()}
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def round(self, run: Run) -> None:
        """Adds a round to the run. Each measurement that fails is told in its failures."""
        # At once, so that an interrupted round is there as far as it came.
        found = Round()
        run.rounds.append(found)
        for name, measure in self._measurements(found, len(run.rounds)):
            try:
                measure()
            except FAILURES as error:
                run.failures.append(f"round {len(run.rounds)}, {name}: {error!r}")

    def _measurements(self, found: Round, number: int) -> Iterator[tuple[str, Callable[[], None]]]:
        """What a round consists of: names, and what writes it down."""
        yield "limits", partial(self._measure_limits, found)
        for streams in self._streams:
            yield f"echo of {streams}", partial(self._measure_echo, found, streams)
        for case in self._cases:
            yield case.name, partial(self._measure_case, found, case)
        others: dict[str, Callable[[], None]] = {
            "beside": partial(self._measure_beside, found, bulk_first=number % 2 == 0),
            "map": partial(self._measure_whole, found, "map", whole.map),
            "predict": partial(self._measure_whole, found, "predict", whole.predict),
            "crowd": partial(self._measure_crowd, found),
            "start": partial(self._measure_start, found),
        }
        for name in self._others:
            yield name, others[name]

    def _measure_limits(self, found: Round) -> None:
        for name, limit in self._limits.items():
            rates = {
                (rows, chunk): limit.elements_per_second(
                    rows=rows, chunk=chunk, seconds=self._seconds / 3
                )
                for rows, chunk in _BATCHES
            }
            self._best[name] = max(rates, key=lambda batch: rates[batch])
            found.limits[name] = rates[self._best[name]]
        found.step = self._limits[SMALL.name].step_seconds(rows=1, chunk=1, seconds=0.2)

    def _measure_echo(self, found: Round, streams: int) -> None:
        found.echoes[streams] = self._echoed(streams, self._seconds)

    def _echoed(self, streams: int, seconds: float) -> Echoed:
        recorder = self._runner.run(
            echo.loop(self._echo, streams=streams, size=_PUSH_NBYTES, seconds=seconds)
        )
        latencies = _some(recorder.latencies())
        return Echoed(per_second=recorder.per_second, latencies=latencies)

    def _measure_case(self, found: Round, case: Case) -> None:
        if case.sdk:
            found.loads[case.name] = self._applied(case)
            return
        capacity = None
        if case.share is not None:
            closed = found.loads.get(case.closed.name)
            if closed is None:
                raise RuntimeError(f"the capacity is unknown: {case.closed.name} failed")
            capacity = closed.per_second
        aimed = case.target is not None
        limits = [self._limit_of(case)] if aimed else []
        result = self._driven(case.size.name, case.load(self._seconds, capacity))
        limits += [self._limit_of(case)] if aimed else []
        found.loads[case.name] = Figures.of(result, mean(limits) if limits else None)

    def _limit_of(self, case: Case) -> float:
        """What it is now, as the machine is not the same from one second to the next."""
        seconds = self._seconds / 2
        if case.echoed:
            return self._echoed(case.connections, seconds).per_second
        rows, chunk = self._best[case.size.name]
        limit = self._limits[case.size.name]
        return limit.elements_per_second(rows=rows, chunk=chunk, seconds=seconds)

    def _measure_beside(self, found: Round, *, bulk_first: bool) -> None:
        """In turn first."""
        load = replace(bulk.INTERACTIVE, seconds=2 * self._seconds)

        def alone() -> Latencies:
            return _some(self._driven(SMALL.name, load).latencies)

        def beside() -> tuple[Latencies, float]:
            with bulk.process(self._server.target, SMALL.name):
                before = self._elements_so_far()
                result = self._driven(SMALL.name, load)
                elements = self._elements_so_far() - before
            seconds = load.warm_up + load.seconds
            return _some(result.latencies), elements / seconds - load.rate

        if bulk_first:
            (with_bulk, per_second), without = beside(), alone()
        else:
            without, (with_bulk, per_second) = alone(), beside()
        found.beside = Beside(alone=without, beside=with_bulk, bulk_per_second=per_second)

    def _measure_whole(
        self,
        found: Round,
        way: str,
        measure: Callable[[str, str, Callable[[], Usage], int], Whole],
    ) -> None:
        found.wholes[way] = measure(self._server.target, SMALL.name, self._usage, self._elements)

    def _measure_crowd(self, found: Round) -> None:
        with ExitStack() as stack:
            with self._on_core(_SERVER):
                server = stack.enter_context(ServerProcess(str(self._small)))
            found.crowd = self._runner.run(
                crowd.measure(server.target, self._small, lambda: Usage.scrape(server.metrics_url))
            )

    def _measure_start(self, found: Round) -> None:
        with self._on_core(_SERVER):
            found.start = start.measure()

    def _applied(self, case: Case) -> Figures:
        applied = self._runner.run(
            application.drive(self._server.target, case.size.name, case.load(self._seconds))
        )
        return Figures(per_second=applied.elements_per_second, client_cpu=applied.client_cpu)

    def _driven(self, model: str, load: Load) -> Result:
        return self._runner.run(
            drive(self._server.target, self._models[model], load, usage=self._usage)
        )

    def _usage(self) -> Usage:
        return Usage.scrape(self._server.metrics_url)

    def _elements_so_far(self) -> float:
        return self._server.metric("elman_elements_total", model=SMALL.name)


def _some(latencies: Latencies | None) -> Latencies:
    if latencies is None:
        raise RuntimeError("nothing was answered")
    return latencies
