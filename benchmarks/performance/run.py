"""What a run measured, round by round; it can be written to a file and read back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter

from benchmarks.performance.cases import Case
from elman.bench.drive import Result
from elman.bench.recorder import Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a load made of the server. None where nobody looked."""

    per_second: float
    """Elements."""
    client_cpu: float
    """Seconds for each element, as the next."""
    server_cpu: float | None = None
    rows_per_step: float | None = None
    """The mean batch."""
    resident_bytes: float | None = None
    """Of the server, which has all models and has seen the loads before."""
    latencies: Latencies | None = None
    unanswered: int = 0
    """Elements of an open loop that had no answer ten seconds after it."""
    limit: float | None = None
    """Of one with a target: what the runtime made of its model just before and after, elements a
    second; or the echo, messages."""

    @staticmethod
    def of(result: Result, limit: float | None) -> "Figures":
        return Figures(
            per_second=result.elements_per_second,
            client_cpu=result.client_cpu,
            server_cpu=result.server_cpu,
            rows_per_step=result.rows_per_step,
            resident_bytes=None if result.server is None else result.server.resident_bytes,
            latencies=result.latencies,
            unanswered=result.unanswered,
            limit=limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoed:
    """What the echo did."""

    per_second: float
    """Messages."""
    latencies: Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Interactive sessions, alone and beside one that pushes as fast as it may."""

    alone: Latencies
    beside: Latencies
    bulk_per_second: float
    """Elements of the one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Whole sequences through the SDK."""

    elements: int
    per_second: float
    client_cpu: float
    """Seconds for each element, as the next."""
    server_cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Many sessions, opened through the SDK."""

    sessions: int
    open_seconds: float
    """For all of them."""
    state_nbytes: int
    """Of each."""
    opened_nbytes: float
    """By which the server grew for each that was opened."""
    used_nbytes: float
    """By which it grew for each that was opened and has pushed an element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Seconds, from the start of a process on."""

    serving: float
    """Until the bundled models are served."""
    importing: float
    """What `import elman` takes of an interpreter's."""


@dataclass(slots=True, kw_only=True)
class Round:
    """One measurement of each; what failed, or was not chosen, is missing."""

    limits: dict[str, float] = field(default_factory=dict)
    """Elements a second in-process, by model."""
    step: float | None = None
    """Seconds of a step of one element of the small model."""
    echoes: dict[int, Echoed] = field(default_factory=dict)
    """By connections."""
    loads: dict[str, Figures] = field(default_factory=dict)
    """By the case's name."""
    beside: Beside | None = None
    wholes: dict[str, Whole] = field(default_factory=dict)
    """By the call."""
    crowd: Crowd | None = None
    start: Start | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    facts: dict[str, str]
    """The machine and how it was measured."""
    cases: list[Case]
    rounds: list[Round] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def values(self, figure: Callable[[Round], float | None]) -> list[float]:
        """A figure of each round that has it."""
        return [value for each in self.rounds if (value := figure(each)) is not None]

    def middle(self, figure: Callable[[Round], float | None]) -> float | None:
        """Its median; None if no round has it."""
        values = self.values(figure)
        return median(values) if values else None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_ADAPTER.dump_json(self, indent=2) + b"\n")

    @staticmethod
    def read(path: Path) -> "Run":
        """Raises `OSError`, and `ValueError` if it holds no run."""
        return _ADAPTER.validate_json(path.read_bytes())


_ADAPTER = TypeAdapter(Run)


def load(case: Case, figure: Callable[[Figures], float | None]) -> Callable[[Round], float | None]:
    """A figure of one load, in each round."""

    def of(round: Round) -> float | None:
        found = round.loads.get(case.name)
        return None if found is None else figure(found)

    return of


def share_of_limit(case: Case) -> Callable[[Round], float | None]:
    """Elements a second as a share of its limit around it, or else of the same round's."""

    def of(round: Round) -> float | None:
        found = round.loads.get(case.name)
        if found is None:
            return None
        limit = found.limit
        if limit is None and case.echoed:
            echoed = round.echoes.get(case.connections)
            limit = None if echoed is None else echoed.per_second
        elif limit is None:
            limit = round.limits.get(case.size.name)
        return None if limit is None else found.per_second / limit

    return of


def times_limit_cpu(case: Case) -> Callable[[Round], float | None]:
    """The server's CPU for an element, as a multiple of what the runtime alone takes."""

    def of(round: Round) -> float | None:
        found, limit = round.loads.get(case.name), round.limits.get(case.size.name)
        if found is None or found.server_cpu is None or limit is None:
            return None
        return found.server_cpu * limit

    return of
