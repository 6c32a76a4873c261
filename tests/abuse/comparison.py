"""An innocent session beside an attack against the same session alone, in the same run."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep

import numpy as np

from elman_server.repository import BUNDLED
from tests.abuse.innocent import Experience, Innocent
from tests.oracle import Oracle

TIMES = 3.0
"""p99 beside an attack may be so many times p99 alone."""
FLOOR_SECONDS = 0.010
"""What p99 alone counts for at least. Server, innocent and attacker share two cores or so, and a
process that wakes there waits for the slices of up to two others, of some 3 ms each: that is the
kernel's doing, and comes and goes with what else runs. What this suite is after is 0.1 s and up."""
AFTERMATH_SECONDS = 0.5
"""What a server does when an attacker has gone still counts as beside it."""
LOWEST = 19
"""Niceness of attackers: they may cost the server time, but no core that it could have had."""


@dataclass
class Comparison:
    """Bouts of an attack, with times of peace between them."""

    innocent: Innocent
    _alone: list[tuple[float, float]] = field(default_factory=list)
    _beside: list[tuple[float, float]] = field(default_factory=list)

    def peace(self, seconds: float = 0.7) -> None:
        begun = monotonic()
        sleep(seconds)
        self._alone.append((begun, monotonic()))

    def attack(self, bout: Callable[[], None]) -> None:
        """Runs it to its end, and waits for what comes of it; raises what it raises."""
        begun = monotonic()
        run_nice(bout)
        sleep(AFTERMATH_SECONDS)
        self._beside.append((begun, monotonic()))

    def check(self, what: str, *, longest: float = float("inf")) -> None:
        """That the innocent session met no errors, got its own predictions, and waited no longer
        than it may. `longest`: seconds that no answer and no newcomer may wait."""
        experience = self.innocent.stop()
        assert not experience.errors, experience.errors[:3]
        self._check_values(experience)
        alone, beside = (experience.between(spans) for spans in (self._alone, self._beside))
        newcomers = [
            seconds
            for came, seconds in zip(experience.came, experience.newcomers, strict=True)
            if any(begun <= came < ended for begun, ended in self._beside)
        ]
        print(f"\n{what}\n  alone {_quantiles(alone)}\n  beside {_quantiles(beside)}")
        if newcomers:
            print(f"  newcomers beside: {_quantiles(newcomers)}")
        allowed = TIMES * max(p99(alone), FLOOR_SECONDS)
        assert p99(beside) <= allowed, (
            f"{what}: p99 {1e3 * p99(beside):.1f} ms beside, {1e3 * p99(alone):.1f} ms alone"
        )
        assert max([*beside, *newcomers]) <= longest

    def _check_values(self, experience: Experience) -> None:
        task = self.innocent.task
        elements = [
            each if isinstance(each, str) else np.array(each, np.float32) for each in task.elements
        ]
        oracle = Oracle(self.innocent.path or BUNDLED / task.model / "1/model.onnx")
        oracle.reset()
        alone = [
            oracle.step(elements[number % len(elements)])[task.output].ravel().tolist()
            for number in range(len(experience.values))
        ]
        assert experience.values == alone
        assert all(value == alone[0] for value in experience.first_values)


def run_nice(bout: Callable[[], None]) -> None:
    """Runs it in a thread of its own that has the lowest priority, and raises what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            bout()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def p99(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.99))


def _quantiles(seconds: list[float]) -> str:
    p50, p99, most = 1e3 * np.quantile(seconds, [0.5, 0.99, 1.0])
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.1f} ms, of {len(seconds)}"
