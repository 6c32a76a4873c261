"""What tickets and names cost: the same load on the same server, with and without.

    python -m benchmarks.tickets
    python -m benchmarks.tickets --rounds 9 --every 1000 100

Every round measures each load without tickets and with, and with names, in turn first, so that what
else the machine does meets all. Named sessions are kept in a folder or in `--state-store`. Figures
are medians over the rounds, and ratios medians of each round's own.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import uvloop
from rich.console import Console
from rich.table import Table

import elman
from benchmarks.models import LARGE, MIDDLE, SMALL, Size
from elman.bench.drive import drive
from elman.bench.load import Load
from elman_server.durable.tickets.keys import new_key
from tests.serverprocess import ServerProcess

CASES = (
    (SMALL, Load(sessions=256, window=8, seconds=4)),
    (SMALL, Load(sessions=256, seconds=4)),
    (MIDDLE, Load(sessions=64, window=8, seconds=6)),
    (LARGE, Load(sessions=32, window=8, seconds=8)),
)
"""Long enough for several tickets of each session."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one model, one load and one number of elements between two tickets."""

    size: Size
    load: Load
    rates: list[float] = field(default_factory=list)
    """Elements a second, for each round."""
    ratios: list[float] = field(default_factory=list)
    """To those of the same round without tickets."""
    nbytes: list[float] = field(default_factory=list)
    """Of tickets and checkpoints, for each element."""


def measure(every: Sequence[int], *, rounds: int, state_store: str = "") -> list[Costs]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in {size for size, _ in CASES}:
            size.save(folder)
        store = state_store or f"file:{folder}/store"
        server = stack.enter_context(
            ServerProcess(
                *(str(folder), "--min-ticket-elements", "1", "--state-store", store),
                env={"ELMAN_TICKET_KEY": new_key()},
            )
        )
        client = stack.enter_context(elman.connect(server.target))
        found = []
        for size, load in CASES:
            model = client.model(size.name)
            loads = [replace(load, ticket_every=n) for n in (0, *every)]
            costs = [Costs(size, each) for each in (*loads, replace(load, named=True))]
            for number in range(rounds):
                # In another order each time.
                turn = number % len(costs)
                for each in costs[turn:] + costs[:turn]:
                    _run(server, model, each)
            for each in costs:
                each.ratios.extend(
                    rate / plain for rate, plain in zip(each.rates, costs[0].rates, strict=True)
                )
            found += costs
        return found


def _run(server: ServerProcess, model: elman.Model, costs: Costs) -> None:
    def counted() -> tuple[float, float]:
        return (
            server.metric("elman_ticket_bytes_total", model=model.name)
            + server.metric("elman_checkpoint_bytes_total"),
            server.metric("elman_elements_total", model=model.name),
        )

    nbytes, elements = counted()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        result = loop.run(drive(server.target, model, costs.load))
    more_nbytes, more_elements = counted()
    costs.rates.append(result.elements_per_second)
    costs.nbytes.append((more_nbytes - nbytes) / (more_elements - elements))


def table(found: Sequence[Costs]) -> Table:
    rows = Table(
        "model", "window", "a ticket every", "elements/s", "of those without", "bytes/element"
    )
    for costs in found:
        every = "named" if costs.load.named else str(costs.load.ticket_every or "never")
        rows.add_row(
            costs.size.name,
            str(costs.load.window),
            every,
            f"{median(costs.rates):,.0f}",
            f"{median(costs.ratios):.3f} ({min(costs.ratios):.2f} to {max(costs.ratios):.2f})",
            f"{median(costs.nbytes):.1f}",
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--every", type=int, nargs="+", default=[1000, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--state-store", default="", help="instead of a folder")
    options = parser.parse_args()
    found = measure(options.every, rounds=options.rounds, state_store=options.state_store)
    Console(width=100).print(table(found))


if __name__ == "__main__":
    main()
