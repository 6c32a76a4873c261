"""Who polls a gRPC server's connections, and what a message costs for it.

    python -m benchmarks.pollers

A bare echo with gRPC's own choice, and with connections that the thread polls which waits for their
messages: each on the same core, what loads them on another, in turn. The latter is faster by a
tenth, and the server does without it: one connection that sends nothing but WINDOW_UPDATEs starves
all others of it (docs/performance.md, "Who polls").
"""

import asyncio
from statistics import median

import uvloop

from benchmarks import echo
from benchmarks.machine import machine, on_core

VARIABLE = "GRPC_EXPERIMENTS"
POLL_THEMSELVES = "-event_engine_listener"
_STREAMS = (1, 64)
_ROUNDS = 7
_SECONDS = 1.0
_PUSH_NBYTES, _PREDICTION_NBYTES = 24, 420


def main() -> None:
    with (
        on_core(0),
        echo.process(_PREDICTION_NBYTES, **{VARIABLE: ""}) as theirs,
        echo.process(_PREDICTION_NBYTES, **{VARIABLE: POLL_THEMSELVES}) as ours,
        on_core(1),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        for streams in _STREAMS:
            rates: dict[str, list[float]] = {theirs: [], ours: []}
            for _ in range(_ROUNDS):
                for target, found in rates.items():
                    load = echo.loop(target, streams=streams, size=_PUSH_NBYTES, seconds=_SECONDS)
                    found.append(runner.run(load).per_second)
            ratio = median(b / a for a, b in zip(rates[theirs], rates[ours], strict=True))
            print(
                f"{streams} connections: {median(rates[theirs]):,.0f} messages/s with gRPC's own "
                f"choice, {median(rates[ours]):,.0f} polled by who waits; {ratio:.2f} times as many"
            )
    print(" · ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
