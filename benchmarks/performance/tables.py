"""A run as tables, for a terminal and for a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table as RichTable

from benchmarks.performance.bulk import INTERACTIVE
from benchmarks.performance.cases import ALONE, Case
from benchmarks.performance.run import Run, load, share_of_limit, times_limit_cpu
from benchmarks.performance.targets import Target, targets
from elman.bench.recorder import Latencies

_BEYOND = 3
"""Frames that have to lie beyond a quantile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    columns: tuple[str, ...]
    words: int
    """So many columns, the first, hold words; the others hold figures."""
    rows: Sequence[tuple[str, ...]]


def tables(run: Run) -> dict[str, Table]:
    """By name; those that have rows."""
    found = {
        "targets": targets_table(targets(run)),
        "limits": _limits(run),
        "loads": _loads(run),
        "open-loops": _open_loops(run),
        "others": _others(run),
    }
    return {name: table for name, table in found.items() if table.rows}


def targets_table(found: Sequence[Target]) -> Table:
    rows = []
    for target in found:
        sign = "≥" if target.at_least else "≤"
        least, most = (target.form.format(each(target.values)) for each in (min, max))
        rows.append(
            (
                target.load,
                target.measure,
                f"{sign} {target.form.format(target.bound)}",
                target.form.format(target.seen),
                f"{least} to {most}",
                "met" if target.met else f"{target.reached:.0%} of the way",
            )
        )
    return Table(
        title="Targets",
        columns=("load", "measure", "target", "seen", "rounds", "verdict"),
        words=2,
        rows=rows,
    )


def _limits(run: Run) -> Table:
    rows = []
    for size in dict.fromkeys(size for round in run.rounds for size in round.limits):
        if rates := [round.limits[size] for round in run.rounds if size in round.limits]:
            rows.append((f"{size} in-process, elements", f"{median(rates):,.0f}", "", ""))
    step = run.middle(lambda round: round.step)
    if step is not None:
        row = f"{ALONE.size.name} in-process, steps of one element"
        rows.append((row, f"{1 / step:,.0f}", _milliseconds(step), ""))
    for streams in sorted({streams for round in run.rounds for streams in round.echoes}):
        echoes = [round.echoes[streams] for round in run.rounds if streams in round.echoes]
        p50, p99, _ = _quantiles([each.latencies for each in echoes])
        what = f"echo, messages of {streams} connection{'s' if streams > 1 else ''}"
        rows.append((what, f"{median(each.per_second for each in echoes):,.0f}", p50, p99))
    return Table(
        title="Limits", columns=("what", "a second", "p50 ms", "p99 ms"), words=1, rows=rows
    )


_LOAD_COLUMNS = (
    *("model", "load", "elements/s", "of limit", "p50 ms", "p99 ms", "p99.9 ms", "rows/step"),
    *("server µs", "x limit", "client µs", "server MiB"),
)


def _loads(run: Run) -> Table:
    rows = []
    for case in run.cases:
        rate = run.middle(load(case, lambda figures: figures.per_second))
        if case.share is not None or rate is None:
            continue
        share = run.middle(share_of_limit(case))
        rows.append(
            (
                case.size.name,
                case.load_name,
                f"{rate:,.0f}",
                _shown(share, "{:.2f}") + (" of echo" if case.echoed else ""),
                *_quantiles(_latencies(run, case)),
                _shown(run.middle(load(case, lambda figures: figures.rows_per_step)), "{:.1f}"),
                _microseconds(run.middle(load(case, lambda figures: figures.server_cpu))),
                _shown(run.middle(times_limit_cpu(case)), "{:.2f}"),
                _microseconds(run.middle(load(case, lambda figures: figures.client_cpu))),
                _mebibytes(run.middle(load(case, lambda figures: figures.resident_bytes))),
            )
        )
    return Table(title="Closed loops", columns=_LOAD_COLUMNS, words=2, rows=rows)


def _open_loops(run: Run) -> Table:
    rows = []
    for case in run.cases:
        rate = run.middle(load(case, lambda figures: figures.per_second))
        if case.share is None or rate is None:
            continue
        unanswered = sum(run.values(load(case, lambda figures: figures.unanswered)))
        rows.append(
            (
                case.size.name,
                case.load_name,
                f"{rate:,.0f}",
                *_quantiles(_latencies(run, case)),
                _shown(run.middle(load(case, lambda figures: figures.rows_per_step)), "{:.1f}"),
                _microseconds(run.middle(load(case, lambda figures: figures.server_cpu))),
                f"{unanswered:,.0f}",
            )
        )
    columns = (
        *("model", "load", "elements/s", "p50 ms", "p99 ms", "p99.9 ms", "rows/step"),
        *("server µs", "unanswered"),
    )
    return Table(title="Open loops", columns=columns, words=2, rows=rows)


def _others(run: Run) -> Table:
    rows = [*_beside(run), *_wholes(run), *_crowd(run)]
    return Table(title="Beside the loops", columns=("load", "measure", "seen"), words=2, rows=rows)


def _beside(run: Run) -> Iterator[tuple[str, str, str]]:
    found = [round.beside for round in run.rounds if round.beside is not None]
    if found:
        each = INTERACTIVE.rate / INTERACTIVE.sessions
        load = f"{INTERACTIVE.sessions} interactive sessions, {each:g} elements/s each"
        alone = _joined([each.alone for each in found])
        beside = _joined([each.beside for each in found])
        rate = median(each.bulk_per_second for each in found)
        yield load, "p50 / p99 / p99.9, ms", alone
        yield f"{load}, and a bulk one", "p50 / p99 / p99.9, ms", beside
        yield f"{load}, and a bulk one", "the bulk one's elements/s", f"{rate:,.0f}"


def _wholes(run: Run) -> Iterator[tuple[str, str, str]]:
    for way in dict.fromkeys(way for round in run.rounds for way in round.wholes):
        found = [round.wholes[way] for round in run.rounds if way in round.wholes]
        load = f"{sum(each.elements for each in found):,} elements by {way}"
        client = _microseconds(median(each.client_cpu for each in found))
        server = _microseconds(median(each.server_cpu for each in found))
        yield load, "elements/s", f"{median(each.per_second for each in found):,.0f}"
        yield load, "CPU of client / server, µs an element", f"{client} / {server}"


def _crowd(run: Run) -> Iterator[tuple[str, str, str]]:
    found = [round.crowd for round in run.rounds if round.crowd is not None]
    if found:
        load = f"{found[0].sessions:,} sessions"
        opened = median(each.opened_nbytes for each in found)
        used = median(each.used_nbytes for each in found)
        yield load, "state of each, bytes", f"{found[0].state_nbytes:,}"
        yield load, "resident memory of each when opened, bytes", f"{opened:,.0f}"
        yield load, "resident memory of each after an element, bytes", f"{used:,.0f}"
        yield load, "to open them, s", f"{median(each.open_seconds for each in found):.2f}"


def rich_table(table: Table) -> RichTable:
    found = RichTable(title=table.title, title_justify="left")
    for number, column in enumerate(table.columns):
        found.add_column(column, justify="left" if number < table.words else "right")
    for row in table.rows:
        found.add_row(*row)
    return found


def markdown(table: Table) -> str:
    """GitHub's, without a last newline."""
    figures = len(table.columns) - table.words
    rule = "---|" * table.words + "---:|" * figures
    lines = [f"| {' | '.join(row)} |" for row in (table.columns, *table.rows)]
    return "\n".join([lines[0], f"|{rule}", *lines[1:]])


def _latencies(run: Run, case: Case) -> list[Latencies]:
    found = (round.loads.get(case.name) for round in run.rounds)
    return [figures.latencies for figures in found if figures and figures.latencies]


def _quantiles(latencies: Sequence[Latencies]) -> tuple[str, str, str]:
    """p50, p99 and p99.9 in milliseconds, each the median of the rounds'. Empty where too few
    frames came, in all of them, to say."""
    frames = sum(each.frames for each in latencies)

    def shown(name: str, beyond: float) -> str:
        if frames * beyond < _BEYOND:
            return ""
        return _milliseconds(median(getattr(each, name) for each in latencies))

    return shown("p50", 0.5), shown("p99", 0.01), shown("p999", 0.001)


def _joined(latencies: Sequence[Latencies]) -> str:
    return " / ".join(each or "-" for each in _quantiles(latencies))


def _milliseconds(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:,.2f}"


def _microseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.2f}"


def _mebibytes(nbytes: float | None) -> str:
    return "" if nbytes is None else f"{nbytes / 2**20:,.0f}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
