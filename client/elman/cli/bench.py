"""`elman bench`: throughput and latency of a server."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import inf
from typing import Any

import click
import grpc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import elman
from elman.bench.drive import Result, drive
from elman.bench.load import Load
from elman.bench.peer import LoadFailed
from elman.bench.usage import Usage
from elman.cli import completion
from elman.cli.connection import connected, target_option
from elman.cli.document import document
from elman.cli.progress import countdown
from elman.v1 import inference_pb2 as pb


@click.command(
    epilog="""\b
    Examples:
      elman bench sentiment
      elman bench shakespeare --sessions 256 --window 8 --output next --top 5
      elman bench weather --sessions 64 --connections 64
      elman bench sentiment --rate 5000 --burst 4 --metrics http://localhost:9464/metrics
    """
)
@click.argument("model", shell_complete=completion.models)
@target_option
@click.option("--version", help="The model's version.  [default: the newest]")
@click.option("--sessions", default=64, show_default=True, help="Sessions open at the same time.")
@click.option(
    "--connections", default=1, show_default=True, help="Connections to spread the sessions over."
)
@click.option(
    "--window",
    default=1,
    show_default=True,
    help="Closed loop: unanswered elements of each session.",
)
@click.option(
    "--rate",
    type=float,
    help="Open loop: elements a second, of all sessions together, independent of the answers. "
    "Latency counts from an element's due time.",
)
@click.option(
    "--burst",
    default=1.0,
    show_default=True,
    help="Open loop: mean number of elements in a burst for a session.",
)
@click.option("--seconds", default=5.0, show_default=True, help="Measured time in seconds.")
@click.option("--warm-up", default=0.5, show_default=True, help="Seconds before the measurement.")
@click.option(
    "--output",
    "names",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.outputs,
    help="Request only this output. Repeatable.",
)
@click.option(
    "--top", type=click.IntRange(min=1), help="Request the K best entries of each output."
)
@click.option(
    "--metrics",
    metavar="URL",
    help="The server's /metrics, to add its CPU, memory and batches (needs the extra 'server').",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random elements and times.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def bench(
    model: str,
    target: str,
    version: str | None,
    names: tuple[str, ...],
    top: int | None,
    metrics: str | None,
    rate: float | None,
    as_json: bool,
    **load: Any,
) -> None:
    """Load a server with random elements, and measure throughput and latency.

    In the closed loop, each session pushes an element for each answer. This shows the server's
    capacity. With --rate, elements come at random times, independent of the answers. This shows the
    latency for users at the rate.
    """
    try:
        planned = Load(rate=inf if rate is None else rate, **load)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with connected(target) as client:
        known = client.model(model, version)
    requests = list(_requests(known, names, top))
    usage = None if metrics is None else _usage(metrics)
    try:
        with (
            countdown(f"loading {target}", planned.warm_up + planned.seconds),
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            result = runner.run(drive(target, known, planned, requests, usage))
    except LoadFailed as error:
        raise click.ClickException(str(error)) from None
    except grpc.RpcError as error:
        raise click.ClickException(f"{target} broke off: {error}") from None
    if as_json:
        closed = {} if planned.open_loop else {"rate": None}
        click.echo(document({"load": asdict(planned) | closed, "result": asdict(result)}))
    else:
        Console(highlight=False).print(_table(result))


def _requests(
    model: elman.Model, names: Iterable[str], top: int | None
) -> Iterable[pb.OutputRequest]:
    known = {output.name for output in model.outputs}
    for name in names or (known if top else ()):
        if name not in known:
            raise click.UsageError(
                f"output {name!r} is unknown; the model has {', '.join(sorted(known))}"
            )
        form = pb.FORM_TOP if top else pb.FORM_RAW
        yield pb.OutputRequest(name=name, form=form, k=top or 0)


def _usage(url: str) -> Callable[[], Usage]:
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise click.UsageError(
            "--metrics needs the extra 'server': pip install 'elman[server]'"
        ) from None

    def scrape() -> Usage:
        try:
            return Usage.scrape(url)
        except (OSError, ValueError) as error:
            raise click.ClickException(f"--metrics {url}: {error}") from None
        except KeyError as error:
            raise click.ClickException(
                f"--metrics {url} has no metric {error}; the server is no Elman server"
            ) from None

    return scrape


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop factory, if installed: uvloop uses less of the client's core."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _table(result: Result) -> Table:
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("elements/s", f"{result.elements_per_second:,.0f}")
    latencies = result.latencies
    if latencies is not None:
        quantiles = {"p50": latencies.p50, "p99": latencies.p99, "p99.9": latencies.p999}
        for name, seconds in (quantiles | {"highest": latencies.highest}).items():
            table.add_row(name, f"{seconds * 1e3:,.2f} ms")
    table.add_row("elements a frame", f"{result.elements_per_frame:,.1f}")
    if result.unanswered:
        table.add_row("unanswered", f"{result.unanswered:,}")
    table.add_row("to open the sessions", f"{result.open_seconds * 1e3:,.1f} ms")
    table.add_row("client CPU an element", f"{result.client_cpu * 1e6:,.2f} µs")
    if result.server is not None:
        table.add_row("server CPU an element", f"{(result.server_cpu or 0) * 1e6:,.2f} µs")
        table.add_row("sessions a step", f"{result.rows_per_step or 0:,.1f}")
        table.add_row("server's memory", f"{result.server.resident_bytes / 2**20:,.0f} MiB")
    return table
