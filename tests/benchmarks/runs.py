"""Runs that nobody measured, with figures that are easy to follow."""

from benchmarks.models import SMALL
from benchmarks.performance.cases import ALONE, Case
from benchmarks.performance.run import (
    Beside,
    Crowd,
    Echoed,
    Figures,
    Round,
    Run,
    Start,
    Whole,
)
from elman.bench.recorder import Latencies

MANY = Case(size=SMALL, sessions=64, target=0.5)
SPREAD = Case(size=SMALL, sessions=64, connections=64, target=0.9)
OPEN = Case(size=SMALL, sessions=64, share=0.5)


def latencies(p50: float) -> Latencies:
    """Seconds; the tail is ten and twenty times the middle."""
    return Latencies(p50=p50, p99=10 * p50, p999=20 * p50, highest=20 * p50, frames=5000)


def figures(per_second: float, p50: float = 1e-3) -> Figures:
    return Figures(
        per_second=per_second,
        client_cpu=1e-6,
        server_cpu=4e-6,
        rows_per_step=32.0,
        resident_bytes=2.0**27,
        latencies=latencies(p50),
    )


def round(speed: float = 1.0) -> Round:
    """On a machine that is so many times as fast: what is a ratio stays what it is."""
    return Round(
        limits={SMALL.name: 400_000 * speed},
        step=1e-4 / speed,
        echoes={
            1: Echoed(per_second=2500 * speed, latencies=latencies(3e-4 / speed)),
            64: Echoed(per_second=20_000 * speed, latencies=latencies(3e-3 / speed)),
        },
        loads={
            ALONE.name: figures(1600 * speed, 6e-4 / speed),
            MANY.name: figures(100_000 * speed),
            SPREAD.name: figures(19_000 * speed),
            OPEN.name: figures(50_000 * speed),
        },
        beside=Beside(alone=latencies(1e-3), beside=latencies(3e-3), bulk_per_second=50_000),
        wholes={
            way: Whole(elements=1000, per_second=90_000, client_cpu=5e-6, server_cpu=10e-6)
            for way in ("map", "predict")
        },
        crowd=Crowd(
            sessions=10_000,
            open_seconds=1.0,
            state_nbytes=1024,
            opened_nbytes=1500.0,
            used_nbytes=2048.0,
        ),
        start=Start(serving=0.9, importing=0.05),
    )


def run(*rounds: Round, pinned: bool = False) -> Run:
    return Run(
        facts={"cores": "2", "pinned": "yes" if pinned else "no"},
        cases=[ALONE, MANY, SPREAD, OPEN],
        rounds=list(rounds),
    )
