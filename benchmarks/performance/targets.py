"""What is aimed at, and what a run saw of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.performance.cases import ALONE, Case
from benchmarks.performance.run import Round, Run, load, share_of_limit

_TRITON, _TRITON_PINNED = 15_000, 22_500
"""Elements a second of Triton's C++ server, on 64 connections, when the target was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`values`: what each round saw; `bound`: the least, or the most, that their median may be."""

    load: str
    measure: str
    """What is compared, with its unit."""
    bound: float
    at_least: bool
    values: list[float]
    form: str
    """For one value, as `str.format` takes it."""

    @property
    def seen(self) -> float:
        return median(self.values)

    @property
    def reached(self) -> float:
        """How much of the way there it is: 1 and more is met, whichever way the bound points."""
        if self.at_least:
            return self.seen / self.bound
        # What takes no time, or no memory, is there by any measure.
        return self.bound / self.seen if self.seen > 0 else float("inf")

    @property
    def met(self) -> bool:
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound


def targets(run: Run) -> list[Target]:
    """Those of which the run saw anything."""
    return [target for target in _all(run) if target.values]


def _all(run: Run) -> Iterator[Target]:
    for case in run.cases:
        if case.target is not None:
            yield Target(
                load=case.name,
                measure="of the echo's messages/s" if case.echoed else "of the in-process limit",
                bound=case.target,
                at_least=True,
                values=run.values(share_of_limit(case)),
                form="{:.2f}",
            )
        if case.echoed:
            pinned = run.facts.get("pinned") == "yes"
            yield Target(
                load=case.name,
                measure="elements/s; Triton's is aimed at",
                bound=_TRITON_PINNED if pinned else _TRITON,
                at_least=True,
                values=run.values(load(case, lambda figures: figures.per_second)),
                form="{:,.0f}",
            )

    def at_most(
        load: str, measure: str, bound: float, figure: Callable[[Round], float | None], form: str
    ) -> Target:
        return Target(
            load=load,
            measure=measure,
            bound=bound,
            at_least=False,
            values=run.values(figure),
            form=form,
        )

    yield at_most(
        ALONE.name, "p50, of echo's + a step", 1.25, _times_echo_and_step(ALONE), "{:.2f}"
    )
    yield at_most(
        "100 interactive sessions beside a bulk one", "p99, of that alone", 2.0, _delayed, "{:.2f}"
    )
    yield at_most(
        "10,000 sessions open", "resident bytes each, beside state", 2048, _overhead, "{:,.0f}"
    )
    yield at_most(
        "10,000 sessions open",
        "seconds to open",
        2.0,
        lambda round: None if round.crowd is None else round.crowd.open_seconds,
        "{:.2f}",
    )
    for way in ("map", "predict"):
        yield at_most(
            f"whole sequences by {way}",
            "client's CPU an element, of the server's",
            1.0,
            _client_of_server(way),
            "{:.2f}",
        )
    yield at_most(
        "start with the bundled models",
        "seconds to SERVING",
        1.5,
        lambda round: None if round.start is None else round.start.serving,
        "{:.2f}",
    )
    yield at_most(
        "`import elman`, and what `elman.connect` needs",
        "seconds",
        0.2,
        lambda round: None if round.start is None else round.start.importing,
        "{:.3f}",
    )


def _times_echo_and_step(case: Case) -> Callable[[Round], float | None]:
    def of(round: Round) -> float | None:
        found, echoed = round.loads.get(case.name), round.echoes.get(1)
        if found is None or found.latencies is None or echoed is None or round.step is None:
            return None
        return found.latencies.p50 / (echoed.latencies.p50 + round.step)

    return of


def _delayed(round: Round) -> float | None:
    found = round.beside
    return None if found is None else found.beside.p99 / found.alone.p99


def _overhead(round: Round) -> float | None:
    crowd = round.crowd
    return None if crowd is None else max(0.0, crowd.used_nbytes - crowd.state_nbytes)


def _client_of_server(way: str) -> Callable[[Round], float | None]:
    def of(round: Round) -> float | None:
        whole = round.wholes.get(way)
        return None if whole is None else whole.client_cpu / whole.server_cpu

    return of
