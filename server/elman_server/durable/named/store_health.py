"""The health of the state store: whether the store can be used, and whether the claims are valid.

Only renewals decide whether the store is down. Any other failed call requests a renewal.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from elman_server.durable.named.fence import Fence
from elman_server.durable.store.interface import StoreUnavailable
from elman_server.errors import StoreDown
from elman_server.telemetry.metrics import LabelledMetrics
from elman_server.telemetry.table import STORE_FAILURES


class StoreHealth:
    def __init__(
        self,
        *,
        lease_seconds: float,
        timeout: float,
        go_on: bool,
        clock: Callable[[], float],
        metrics: LabelledMetrics,
    ) -> None:
        """`timeout`: time limit of a call to the store. `go_on`: whether sessions continue during
        an outage of the store."""
        self.go_on = go_on
        self.renew_now = asyncio.Event()
        """Set to request a renewal at once."""
        self._lease_seconds = lease_seconds
        self._timeout = timeout
        self._clock = clock
        self._metrics = metrics
        self._watchers: set[Callable[[], None]] = set()
        self._last_error = ""
        """The error of the last failed renewal."""
        self._log = structlog.get_logger("elman.store")
        self.restart()

    def restart(self) -> None:
        """Starts anew, with a store which is not known to be down."""
        self.fence = Fence(
            lease_seconds=self._lease_seconds,
            timeout=self._timeout,
            now=self._clock(),
            go_on=self.go_on,
        )

    @property
    def lapsed(self) -> bool:
        """Whether another server may have claimed a session by now."""
        return self.fence.lapsed(self._clock())

    @property
    def lending_delay(self) -> float:
        """Seconds until the store may be asked for claims; not positive if it may be asked now."""
        return self.fence.lends_from - self._clock()

    def require(self) -> None:
        """Raises `StoreDown` if the store is known to be down and sessions have to wait for the
        store."""
        if self.fence.down and not self.go_on:
            self.renew_now.set()
            raise StoreDown(self._last_error)

    # Calls.

    def failed(self) -> None:
        """Counts a failed call, and requests a renewal."""
        self._metrics.inc(STORE_FAILURES)
        self.renew_now.set()

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` once. Logs an error instead of raising, so that the caller's loop
        continues."""
        try:
            await work()
        except Exception as error:
            self._log_bug(error)
            self.failed()

    def _log_bug(self, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):
            self._log.exception("bug while named sessions were kept")

    # Renewals.

    def renewed(self, begun: float) -> bool:
        """Records a successful renewal. Returns whether the store was down before."""
        was_down = self.fence.down
        now = self._clock()
        self.fence.renewed(begun, now)
        if (took := now - begun) > self._lease_seconds:
            self._log.warning("claims are renewed too slowly for their lease", seconds=took)
        return was_down

    def not_renewed(self, begun: float, error: Exception) -> bool:
        """Records a failed renewal. Returns whether the store now counts as down."""
        self._metrics.inc(STORE_FAILURES)
        self._log_bug(error)
        was_down = self.fence.down
        down = self.fence.failed(begun, self._clock())
        if down:
            self._last_error = str(error)
        if down and not was_down:
            what = "go on without" if self.go_on else "wait for"
            self._log.warning(f"named sessions {what} the state store", error=str(error))
        return down

    # Watchers.

    def watch(self, notify: Callable[[], None]) -> None:
        """Calls `notify` once, as soon as `lapsed` is false."""
        if not self._watchers:
            self.renew_now.set()
        self._watchers.add(notify)

    def unwatch(self, notify: Callable[[], None]) -> None:
        """Cancels a `watch`."""
        self._watchers.discard(notify)

    def notify_watchers(self) -> None:
        """Calls the watchers, unless the claims have lapsed."""
        if self._watchers and not self.lapsed:
            watchers, self._watchers = self._watchers, set()
            for notify in watchers:
                notify()
