"""Checkpoints of a server's named sessions: which to save, and when.

Saving runs in the background of the steps. Only each session's last snapshot is saved, so a slow
store has no more to save than a fast one. If the store refuses a checkpoint, another server has the
session.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from elman_server.durable.named.lease import Lease
from elman_server.durable.store.batches import batches
from elman_server.durable.store.interface import Claim, StateStore, StoreUnavailable
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.telemetry.metrics import LabelledMetrics
from elman_server.telemetry.table import CHECKPOINT_BYTES, CHECKPOINTS

_MOST_ENDED = 10_000
_MOST_ENDED_NBYTES = 256 * 1024 * 1024
"""Ended sessions whose last checkpoints wait during an outage of the store, and the checkpoints'
bytes. Above the limits, the oldest are dropped."""


class CheckpointWriter:
    def __init__(
        self,
        store: StateStore,
        metrics: LabelledMetrics,
        *,
        ttl: float,
        clock: Callable[[], float],
        refused: Callable[[Lease, Claim], None],
    ) -> None:
        """`ttl`: seconds for which the store keeps a checkpoint."""
        self._store = store
        self._metrics = metrics
        self._ttl = ttl
        self._clock = clock
        self._refused = refused
        self._log = structlog.get_logger("elman.store")
        self.ended: dict[Lease, int] = {}
        """Ended sessions, in order of their end, until they are saved and released. The values are
        the bytes left to save."""
        self._ended_nbytes = 0
        self._last_ended: dict[str, Lease] = {}
        """The last ended session of each key."""
        self.failing = False
        """Whether renewals succeed but saves fail, as in a full store."""
        self._dirty: dict[Lease, None] = {}
        """Sessions to save."""
        self._surplus: list[Claim] = []
        """Claims to release, because their sessions were never opened."""
        self._write = asyncio.Event()
        self._dropping = False
        """Whether checkpoints were dropped since the last successful save."""
        self._renewals = 0
        self._failed_at: int | None = None
        """The number of renewals at the last failed save; None after a successful save."""

    def add(self, lease: Lease) -> None:
        """Marks a session for the next save."""
        self._dirty[lease] = None

    def add_ended(self, lease: Lease) -> None:
        """Takes an ended session, for saving and then releasing it soon."""
        nbytes = _nbytes(lease)
        self.ended[lease] = nbytes
        self._ended_nbytes += nbytes
        self._last_ended[lease.key] = lease
        self._bound_ended()
        self.add(lease)
        self.wake()

    def last_ended(self, key: str) -> Lease | None:
        """Returns the last session of a key, if the session has ended and is not released yet."""
        return self._last_ended.get(key)

    def forget(self, lease: Lease) -> None:
        self._forget_ended(lease)
        self._dirty.pop(lease, None)

    def _forget_ended(self, lease: Lease) -> None:
        self._ended_nbytes -= self.ended.pop(lease, 0)
        if self._last_ended.get(lease.key) is lease:
            del self._last_ended[lease.key]

    def release(self, claim: Claim) -> None:
        """Releases a claim without a session."""
        self._surplus.append(claim.emptied())
        self.wake()

    def wake(self) -> None:
        """Starts a save if there is any work."""
        if self._dirty or self.ended or self._surplus:
            self._write.set()

    async def due(self) -> None:
        """Waits until there is work."""
        await self._write.wait()
        self._write.clear()

    def renewed(self) -> None:
        """Counts a renewal: the store is reachable."""
        self._renewals += 1

    async def save_all(self) -> None:
        dirty, self._dirty = self._dirty, {}
        try:
            for batch in batches(dirty, _nbytes):
                await self._save(batch)
            self._log_outcome(None)
        except BaseException as error:  # including a cancellation during a save
            self._dirty = {**dirty, **self._dirty}
            self._log_outcome(error)
            raise
        await self._release()

    async def _save(self, leases: Iterable[Lease]) -> None:
        saved: dict[Claim, tuple[Lease, Snapshot]] = {}
        checkpoints: dict[Claim, bytes] = {}
        for lease in leases:
            if lease.claim and lease.unsaved and not lease.lost:
                saved[lease.claim] = lease, lease.unsaved
                checkpoints[lease.claim] = lease.seal(lease.unsaved)
        if not checkpoints:
            return
        refused = await self._store.save(checkpoints, ttl=self._ttl)
        done = [
            len(checkpoint) for claim, checkpoint in checkpoints.items() if claim not in refused
        ]
        self._metrics.inc(CHECKPOINTS, len(done))
        self._metrics.inc(CHECKPOINT_BYTES, sum(done))
        for claim, (lease, snapshot) in saved.items():
            if claim in refused:
                self._refused(lease, claim)
            else:
                lease.saved(snapshot, self._clock())

    async def _release(self) -> None:
        """Releases the ended sessions without unsaved snapshots, and the surplus claims."""
        ready = [each for each in self.ended if each.unsaved is None]
        claims = [each.claim for each in ready if each.claim is not None]
        surplus, self._surplus = self._surplus, []
        for lease in ready:
            lease.releasing = True
        try:
            if claims or surplus:
                await self._store.release(*claims, *surplus)
        except BaseException:
            self._surplus = [*surplus, *self._surplus]
            raise
        for lease in ready:
            self._forget_ended(lease)

    def _bound_ended(self) -> None:
        """Drops the oldest ended sessions above the limits, but only while saves fail. Otherwise
        the sessions are saved soon, however many end at once."""
        if self._failed_at is None:
            return
        while len(self.ended) > _MOST_ENDED or self._ended_nbytes > _MOST_ENDED_NBYTES:
            first = next(iter(self.ended))
            self.forget(first)
            if not self._dropping:
                self._dropping = True
                self._log.warning("checkpoints of sessions that ended are dropped", key=first.key)

    def _log_outcome(self, error: BaseException | None) -> None:
        """Logs once if renewals succeed but saves fail, and once when saves succeed again."""
        if error is None:
            if self.failing:
                self._log.info("named sessions are saved again")
            self._failed_at, self.failing, self._dropping = None, False, False
        elif isinstance(error, StoreUnavailable):
            if self._failed_at not in (None, self._renewals) and not self.failing:
                self.failing = True
                self._log.warning("named sessions are not saved", error=str(error))
            self._failed_at = self._renewals


def _nbytes(lease: Lease) -> int:
    return 0 if lease.unsaved is None else lease.unsaved.nbytes
