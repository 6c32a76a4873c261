"""An innocent session beside an attack against the same session alone, in the same run."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from elman_server.model.repository import BUNDLED
from tests.abuse.innocent import SENTIMENT, Experience, Innocent, Task
from tests.oracle import Oracle

TIMES = 3.0
"""p99 beside an attack may be so many times p99 alone."""
FLOOR_SECONDS = 0.010
"""What p99 alone counts for at least. Server, innocent and attacker share two cores or so, and a
process that wakes there waits for the slices of up to two others, of some 3 ms each: that is the
kernel's doing, and comes and goes with what else runs. What this suite is after is 0.1 s and up."""
PEACE_SECONDS = 0.6
"""Before an attack, and after it."""
AFTERMATH_SECONDS = 0.5
"""What a server does when an attacker has gone still counts as beside it."""
ATTEMPTS = 5

Bout = Callable[[], str]
"""An attack, from its beginning to its end; says what it did."""
LOWEST = 19
"""Niceness of attackers: they may cost the server time, but no core that it could have had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An innocent session, alone and beside bouts of an attack, on one server."""

    target: str
    task: Task = SENTIMENT
    path: Path | None = None
    """The model's file; None for a bundled one's."""
    times: float = TIMES
    longest: float = float("inf")
    """Seconds that no answer and no newcomer may wait beside the attack."""
    newcomers: float | None = None
    """What newcomers may wait instead, where they come after those who came before them."""
    load: Bout | None = None
    """What an attack that is a load is compared with, instead of peace."""

    def run(self, bout: Bout) -> None:
        """Asserts that the innocent session meets no error, gets its own predictions, and waits no
        longer than it may beside the attack. Raises what the attack raises.

        A wait that the attack makes is there each time, one that the machine makes is not: so what
        took too long is tried again.
        """
        for _ in range(ATTEMPTS):
            what, alone, beside, newcomers = self._try(bout)
            print(f"\n{what}\n  alone {_quantiles(alone)}\n  beside {_quantiles(beside)}")
            if newcomers:
                print(f"  newcomers beside: {_quantiles(newcomers)}")
            allowed = self.times * max(p99(alone), FLOOR_SECONDS)
            patience = self.longest if self.newcomers is None else self.newcomers
            waits = max(beside), max(newcomers, default=0.0)
            if p99(beside) <= allowed and waits[0] <= self.longest and waits[1] <= patience:
                return
        raise AssertionError(
            f"{what}: beside it p99 is {1e3 * p99(beside):.1f} ms, where {1e3 * allowed:.1f} ms "
            f"are allowed; the longest waits are {waits[0]:.2f} and, of newcomers, {waits[1]:.2f} s"
        )

    def _try(self, bout: Bout) -> tuple[str, list[float], list[float], list[float]]:
        """What the attack did; the waits alone, beside it, and of newcomers beside it."""
        with Innocent(self.target, self.task) as innocent:
            begun = monotonic()
            self._peace()
            attacked = monotonic()
            what = run_nice(bout)
            sleep(AFTERMATH_SECONDS)
            over = monotonic()
            self._peace()
            ended = monotonic()
            experience = innocent.stop()
        assert not experience.errors, experience.errors[:3]
        self._check_values(experience)
        newcomers = [
            seconds
            for came, seconds in zip(experience.came, experience.newcomers, strict=True)
            if attacked <= came < over
        ]
        alone = experience.between([(begun, attacked), (over, ended)])
        return what, alone, experience.between([(attacked, over)]), newcomers

    def _peace(self) -> None:
        if self.load is None:
            sleep(PEACE_SECONDS)
        else:
            run_nice(self.load)
            sleep(AFTERMATH_SECONDS)

    def _check_values(self, experience: Experience) -> None:
        task = self.task
        elements = [
            each if isinstance(each, str) else np.array(each, np.float32) for each in task.elements
        ]
        oracle = Oracle(self.path or BUNDLED / task.model / "1/model.onnx")
        oracle.reset()
        alone = [
            oracle.step(elements[number % len(elements)])[task.output].ravel().tolist()
            for number in range(len(experience.values))
        ]
        assert experience.values == alone
        assert all(value == alone[0] for value in experience.first_values)


def run_nice(bout: Bout) -> str:
    """Runs it in a thread of its own that has the lowest priority; returns or raises what it
    does."""
    with ThreadPoolExecutor(1, initializer=_be_nice) as pool:
        return pool.submit(bout).result()


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


def p99(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.99))


def _quantiles(seconds: list[float]) -> str:
    p50, p99, most = 1e3 * np.quantile(seconds, [0.5, 0.99, 1.0])
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.1f} ms, of {len(seconds)}"
