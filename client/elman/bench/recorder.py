"""When elements were answered: counted, and kept as latencies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Quantiles, in seconds."""

    p50: float
    p99: float
    p999: float
    highest: float
    frames: int
    """With which the answers came: those of one frame are one observation."""


class Recorder:
    """Counts what is answered from `start` on and before `stop`, in seconds on one clock; or,
    `by_due`, what was to be sent then, whenever it was answered."""

    def __init__(self, start: float, stop: float, *, by_due: bool = False) -> None:
        self.start = start
        self.stop = stop
        self._by_due = by_due
        self.elements = 0
        self.frames = 0
        self._begun: float | None = None
        self._ended: float | None = None
        self._between = 0
        self._latencies: list[NDArray[np.float64]] = []
        self._alone: list[float] = []

    def answered(self, now: float, sent: NDArray[np.float64]) -> None:
        """Elements that were sent, or due, at those times were answered in a frame that came
        `now`."""
        if self._by_due:
            sent = sent[(self.start <= sent) & (sent < self.stop)]
        else:
            self._time(now, len(sent))
            if not self.start <= now < self.stop:
                return
        if len(sent):
            self.elements += len(sent)
            self.frames += 1
            self._latencies.append(now - sent)

    def answered_alone(self, now: float, sent: float) -> None:
        """The same of one element."""
        if not self._by_due:
            self._time(now, 1)
        if self.start <= (sent if self._by_due else now) < self.stop:
            self.elements += 1
            self.frames += 1
            self._alone.append(now - sent)

    def never_answered(self, elements: int, waited: float) -> None:
        """Elements had no answer after so many seconds: their latency is that at least."""
        self._latencies.append(np.full(elements, waited))

    @property
    def per_second(self) -> float:
        """Of a closed loop, between the first frame from `start` on and the first from `stop` on:
        so a frame that comes just before or just after the end changes nothing."""
        if self._begun is None or self._ended is None:
            return self.elements / (self.stop - self.start)
        return self._between / (self._ended - self._begun)

    def latencies(self) -> Latencies | None:
        """None if nothing was answered."""
        values = np.concatenate([*self._latencies, self._alone])
        if not len(values):
            return None
        p50, p99, p999, highest = np.quantile(values, [0.5, 0.99, 0.999, 1.0]).tolist()
        return Latencies(p50=p50, p99=p99, p999=p999, highest=highest, frames=self.frames)

    def _time(self, now: float, elements: int) -> None:
        if now < self.start or self._ended is not None:
            return
        if self._begun is None:
            self._begun = now
            return
        self._between += elements
        if now >= self.stop:
            self._ended = now
