"""The server's own figures from the metrics page, compared with the demo's work."""

from dataclasses import dataclass
from math import inf, isfinite
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from elman.cli.demo.failure import DemoFailed, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Number of sessions opened and elements pushed."""

    sessions: int = 0
    elements: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            sessions=self.sessions + other.sessions, elements=self.elements + other.elements
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sums of a metrics page over all models."""

    sessions: float
    elements: float
    steps: float
    mean_batch_size: float
    """Sessions per step."""
    p50: float
    """Quantile of an element's latency within the server, in seconds; likewise `p99`."""
    p99: float

    @staticmethod
    def read(page: str) -> "Figures":
        """Reads the text of a server's `/metrics` page."""
        sums: dict[str, float] = {}
        buckets: dict[float, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
                if sample.name == "elman_element_latency_seconds_bucket":
                    bound = float(sample.labels["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
        try:
            steps = sums["elman_step_batch_size_count"]
            return Figures(
                sessions=sums["elman_sessions_opened_total"],
                elements=sums["elman_elements_total"],
                steps=steps,
                mean_batch_size=sums["elman_step_batch_size_sum"] / steps if steps else 0.0,
                p50=quantile(buckets, 0.5),
                p99=quantile(buckets, 0.99),
            )
        except KeyError as error:
            raise DemoFailed(f"the server's metrics lack {error}") from None


def quantile(buckets: dict[float, float], q: float) -> float:
    """Quantile of a histogram, as Prometheus' `histogram_quantile`.

    `buckets` maps upper bounds to cumulative counts. Values are assumed evenly spread within a
    bucket. Returns NaN without values, and the last finite bound for larger values.
    """
    bounds = sorted(buckets)
    rank = q * (buckets[bounds[-1]] if bounds else 0.0)
    if rank == 0:
        return float("nan")
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank:
            if bound == inf:
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


def fetch(url: str) -> Figures:
    """Reads the figures of a server on this machine."""
    with build_opener(ProxyHandler({})).open(url, timeout=10) as response:
        return Figures.read(response.read().decode())


def show(figures: Figures, console: Console) -> None:
    """Prints figures as a table."""
    table = Table(show_header=False, title="\nThe server's own figures", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("sessions opened", f"{figures.sessions:,.0f}")
    table.add_row("elements answered", f"{figures.elements:,.0f}")
    table.add_row("steps", f"{figures.steps:,.0f}")
    table.add_row("sessions in a step, mean", f"{figures.mean_batch_size:.1f}")
    table.add_row("latency of an element, median", f"{figures.p50 * 1e3:.2f} ms")
    table.add_row("latency of an element, 99th percentile", f"{figures.p99 * 1e3:.2f} ms")
    console.print(table)


def check(figures: Figures, work: Work) -> None:
    """Raises `DemoFailed` if the server's counts differ from the demo's work."""
    counted = (figures.sessions, figures.elements)
    expected = (work.sessions, work.elements)
    require(
        counted == expected,
        f"the server counted (sessions, elements) {counted}; expected were {expected}",
    )
    require(isfinite(figures.p99), "the server measured no latency")
