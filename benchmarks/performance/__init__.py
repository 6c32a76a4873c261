"""Elman beside its limits: ONNX Runtime in-process, and a bare gRPC echo.

    python -m benchmarks.performance
    python -m benchmarks.performance --quick --json build/performance.json
    python -m benchmarks.performance --from build/performance.json --docs docs

Every round measures each limit and each load once, one after another, so that what else the machine
does at a time meets all of them; figures are medians over the rounds, and ratios medians of each
round's own. With `--pin` the server stays on one core and what loads it on another; without, the
server's compute thread may use what the load leaves idle of the other.
"""
