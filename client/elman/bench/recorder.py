"""Counts and latencies of answered elements."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Quantiles of latencies, in seconds."""

    p50: float
    p99: float
    p999: float
    highest: float
    frames: int
    """Number of frames with answers; the answers of one frame are one observation."""


class Recorder:
    """Counts elements answered from `start` until before `stop`, in seconds on one clock.

    With `by_due`, counts the elements due in the interval instead, whenever answered.
    """

    def __init__(self, start: float, stop: float, *, by_due: bool = False) -> None:
        self.start = start
        self.stop = stop
        self._by_due = by_due
        self.elements = 0
        self.frames = 0
        self._started: float | None = None
        self._ended: float | None = None
        self._between = 0
        self._latencies: list[NDArray[np.float64]] = []
        self._alone: list[float] = []

    def answered(self, now: float, sent: NDArray[np.float64]) -> None:
        """Records a frame of answers at `now` to elements sent, or due, at the times `sent`."""
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
        """Records the answer to a single element, like `answered`."""
        if not self._by_due:
            self._time(now, 1)
        if self.start <= (sent if self._by_due else now) < self.stop:
            self.elements += 1
            self.frames += 1
            self._alone.append(now - sent)

    def never_answered(self, elements: int, waited: float) -> None:
        """Records elements without an answer; `waited` seconds is a lower bound of their
        latency."""
        self._latencies.append(np.full(elements, waited))

    @property
    def per_second(self) -> float:
        """Elements per second.

        In a closed loop, measured from the first frame after `start` to the first frame after
        `stop`. A frame shortly before or after the end then changes no result.
        """
        if self._started is None or self._ended is None:
            return self.elements / (self.stop - self.start)
        return self._between / (self._ended - self._started)

    def latencies(self) -> Latencies | None:
        """Quantiles of all latencies; None without any answer."""
        values = np.concatenate([*self._latencies, self._alone])
        if not len(values):
            return None
        p50, p99, p999, highest = np.quantile(values, [0.5, 0.99, 0.999, 1.0]).tolist()
        return Latencies(p50=p50, p99=p99, p999=p999, highest=highest, frames=self.frames)

    def _time(self, now: float, elements: int) -> None:
        if now < self.start or self._ended is not None:
            return
        if self._started is None:
            self._started = now
            return
        self._between += elements
        if now >= self.stop:
            self._ended = now
