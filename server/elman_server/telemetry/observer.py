"""Observer of an engine, which counts in the metrics."""

from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.stats import StepStats
from elman_server.telemetry import table
from elman_server.telemetry.metrics import LabelledMetrics


class EngineObserver:
    """Counts the sessions and steps of a version of a model."""

    def __init__(self, metrics: LabelledMetrics) -> None:
        self._metrics = metrics

    def session_opened(self) -> None:
        self._metrics.inc(table.SESSIONS_OPENED)

    def session_ended(self, reason: EndReason) -> None:
        self._metrics.inc(table.SESSIONS_CLOSED, by=str(reason))

    def session_rejected(self, reason: str) -> None:
        self._metrics.inc(table.SESSIONS_REJECTED, by=reason)

    def stepped(self, stats: StepStats) -> None:
        metrics = self._metrics
        metrics.inc(table.STEPS)
        metrics.inc(table.ELEMENTS, stats.answered)
        metrics.inc(table.NONFINITE_PREDICTIONS, stats.nonfinite)
        metrics.observe(table.STEP_DURATION, [stats.seconds])
        metrics.observe(table.STEP_BATCH_SIZE, [stats.batch_size])
        metrics.observe(table.QUEUE_DELAY, stats.queue_delays)
