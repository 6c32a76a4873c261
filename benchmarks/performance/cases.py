"""The loads that are measured, and what is aimed at."""

from dataclasses import dataclass, replace

from benchmarks.models import LARGE, MIDDLE, SMALL, Size
from elman.bench.load import Load

SIZES = (SMALL, MIDDLE, LARGE)
SESSIONS = (1, 8, 64, 256, 1024)
"""Of the plots, with one element in flight each."""
_WARM_UP = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A load of one model."""

    size: Size
    sessions: int
    window: int = 1
    """Closed loop: elements that each session keeps unanswered."""
    connections: int = 1
    sdk: bool = False
    """Whether an application drives it, and not packed frames."""
    share: float | None = None
    """Open loop: the rate as a share of what `closed` reached in the same round."""
    burst: float = 1.0
    """Open loop: elements that come at once for a session, on average."""
    target: float | None = None
    """The least share of the limit: of the runtime's elements in-process, or where `echoed` of the
    echo's messages."""

    @property
    def name(self) -> str:
        return f"{self.size.name}: {self.load_name}"

    @property
    def load_name(self) -> str:
        parts = [f"{self.sessions} session{'s' if self.sessions > 1 else ''}"]
        if self.share is None:
            parts.append(f"window {self.window}")
        else:
            parts.append(f"open loop at {self.share:.0%}")
        if self.burst > 1:
            parts.append(f"bursts of {self.burst:g}")
        if self.connections > 1:
            parts.append(f"{self.connections} connections")
        if self.sdk:
            parts.append("elman.aio")
        return ", ".join(parts)

    @property
    def echoed(self) -> bool:
        """Whether it sends a message for each element, as the echo does: that is then its limit."""
        return self.connections > 1

    @property
    def closed(self) -> "Case":
        """The closed loop whose rate is the capacity of this open one."""
        return replace(self, share=None, burst=1.0, target=None)

    def load(self, seconds: float, capacity: float | None = None) -> Load:
        """`capacity`: elements a second, needed for an open loop."""
        load = Load(
            sessions=self.sessions,
            connections=self.connections,
            window=self.window,
            seconds=seconds,
            warm_up=_WARM_UP,
        )
        if self.share is None:
            return load
        assert capacity is not None
        return replace(load, rate=capacity * self.share, burst=self.burst)


TARGETS = (
    Case(size=MIDDLE, sessions=256, window=8, target=0.95),
    Case(size=LARGE, sessions=256, window=8, target=0.95),
    Case(size=SMALL, sessions=256, window=8, target=0.88),
    Case(size=SMALL, sessions=256, target=0.40),
    Case(size=SMALL, sessions=64, target=0.20),
    Case(size=MIDDLE, sessions=256, target=0.80),
    Case(size=MIDDLE, sessions=64, target=0.60),
    Case(size=SMALL, sessions=64, connections=64, target=0.90),
)
ALONE = Case(size=SMALL, sessions=1)
"""Whose latency has a target."""


def every() -> list[Case]:
    """By model and size of the load; closed loops stand before the open ones that need them."""
    found = [
        *(Case(size=size, sessions=sessions) for size in SIZES for sessions in SESSIONS),
        *(Case(size=size, sessions=256, window=window) for size in SIZES for window in (8, 32)),
        *(Case(size=SMALL, sessions=256, window=window, sdk=True) for window in (1, 8)),
        *(
            Case(size=replace(size, int8=True), sessions=256, window=window)
            for size in SIZES
            for window in (1, 8)
        ),
        *(
            Case(size=size, sessions=256, share=share, burst=burst)
            for size in (SMALL, MIDDLE)
            for burst in (1.0, 8.0)
            for share in (0.5, 0.9)
        ),
        *TARGETS,
    ]
    aimed = {case.name: case for case in TARGETS}
    # One that has a target is the one that stands here without.
    return list({case.name: aimed.get(case.name, case) for case in found}.values())


def quick() -> list[Case]:
    """Those with a target, and an open loop."""
    opened = Case(size=SMALL, sessions=256, share=0.5)
    return [ALONE, *TARGETS, opened]


def with_capacities(chosen: list[Case]) -> list[Case]:
    """With the closed loops, first, that chosen open ones need and that were not chosen."""
    names = {case.name for case in chosen}
    missing = {
        case.closed.name: case.closed
        for case in chosen
        if case.share is not None and case.closed.name not in names
    }
    return [*missing.values(), *chosen]
