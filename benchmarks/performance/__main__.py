import argparse
import os
import sys
import time
from pathlib import Path

import benchmarks.performance
from benchmarks.machine import machine
from benchmarks.performance import cases
from benchmarks.performance.bench import OTHERS, Bench
from benchmarks.performance.plots import draw
from benchmarks.performance.report import as_markdown, document, show
from benchmarks.performance.run import Run

_WIDTH = 170
_ELEMENTS = 1_000_000
"""Of whole sequences, in all rounds together."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance",
        description=(benchmarks.performance.__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--rounds", type=int, help="5, and 1 if quick")
    parser.add_argument("--seconds", type=float, help="for each measurement: 0.8, and 0.5 if quick")
    parser.add_argument("--quick", action="store_true", help="little more than has a target")
    parser.add_argument("--pin", action="store_true", help="server and load to a core each")
    parser.add_argument(
        "--only",
        help=f"only loads whose name holds this; beside models' there are {', '.join(OTHERS)}",
    )
    parser.add_argument("--from", type=Path, dest="source", help="measure nothing: read this file")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--plots", type=Path, help="draw pictures, SVG, into this folder")
    parser.add_argument(
        "--docs",
        type=Path,
        help="fill the tables of this folder's performance.md, and draw its pictures",
    )
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Run:
    """As far as it came, if it was interrupted."""
    quick = options.quick
    rounds = options.rounds or (1 if quick else 5)
    seconds = options.seconds or (0.5 if quick else 0.8)
    wanted = options.only or ""
    chosen = [case for case in (cases.quick() if quick else cases.every()) if wanted in case.name]
    chosen = cases.with_capacities(chosen)
    run = Run(
        facts={
            **machine(),
            "pinned": "yes" if options.pin else "no",
            "rounds": str(rounds),
            "seconds each": f"{seconds:g}",
            "load average before": f"{os.getloadavg()[0]:.1f}",
        },
        cases=chosen,
    )
    others = [name for name in OTHERS if wanted in name]
    elements = (_ELEMENTS // 10 if quick else _ELEMENTS) // rounds
    with Bench(seconds, chosen, others, elements=elements, pin=options.pin) as bench:
        try:
            for _ in range(rounds):
                bench.round(run)
        except KeyboardInterrupt:
            run.failures.append("interrupted")
    return run


def main() -> None:
    options = _options()
    begun = time.perf_counter()
    run = Run.read(options.source) if options.source else _measured(options)
    # First of all, so that no trouble with the rest loses it.
    if options.json:
        run.write(options.json)
    show(run, _WIDTH)
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(as_markdown(run), encoding="utf-8")
    if options.plots:
        draw(run, options.plots)
    if options.docs:
        try:
            document(run, options.docs)
        except ValueError as error:
            sys.exit(f"{options.docs} is left as it was: {error}")
    print(f"{time.perf_counter() - begun:.0f} s")
    if run.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
