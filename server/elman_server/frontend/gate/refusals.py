"""Refused calls: counted, and logged from time to time."""

from collections.abc import Callable

import structlog

from elman_server.telemetry.metrics import LabelledMetrics
from elman_server.telemetry.table import CALLS_REFUSED

_LOG_SECONDS = 10.0
"""Shortest time between two log lines about the same reason."""


class Refusals:
    """Counts and logs refused calls, for one event loop."""

    def __init__(self, metrics: LabelledMetrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._since: dict[str, int] = {}
        self._log = structlog.get_logger("elman.rpc")

    def count(self, reason: str, peer: str, why: str) -> None:
        self._metrics.inc(CALLS_REFUSED, by=reason)
        self._since[reason] = self._since.get(reason, 0) + 1
        now = self._clock()
        if now >= self._logged.get(reason, now - _LOG_SECONDS) + _LOG_SECONDS:
            self._logged[reason] = now
            self._log.warning(
                "calls refused",
                reason=reason,
                calls=self._since.pop(reason),
                last_peer=peer,
                last_why=why,
            )
