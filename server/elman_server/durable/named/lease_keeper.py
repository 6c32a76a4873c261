"""The keeper of a server's named sessions: claims, leases and checkpoints.

The keeper renews every claim three times per lease. After the server was cut off from the store for
more than a lease, or stood still, the next renewal shows whether other servers have claimed its
sessions. Until this renewal has succeeded, `lapsed` is true and the server must not send answers of
named sessions. With `go_on`, sessions continue during an outage of the store, once a renewal has
detected the outage. The keeper saves their progress after the outage.
"""

import asyncio
from collections.abc import Callable

import structlog

from elman_server.durable.named.claimer import Claimer
from elman_server.durable.named.lease import Lease, NamedSession
from elman_server.durable.named.lease_table import LeaseTable
from elman_server.durable.named.rewinding import Resumption
from elman_server.durable.named.store_health import StoreHealth
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.interface import Claim, StateStore, StoreUnavailable
from elman_server.errors import StoreDown
from elman_server.process.clock import since_boot
from elman_server.telemetry.metrics import LabelledMetrics

_AT_ONCE = 250
"""Sessions to check before the event loop runs other tasks."""
_PROBE = Claim(key="", owner="", generation=1)
"""A claim to renew if the server has no session. Its renewal detects a store without write
access."""
_STOP_SECONDS = 3.0


class LeaseKeeper:
    """The named sessions of one event loop."""

    def __init__(
        self,
        store: StateStore,
        terms: Terms,
        metrics: LabelledMetrics,
        *,
        go_on: bool,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        """`go_on`: whether sessions continue during an outage of the store. If false, they wait."""
        self._store = store
        self._terms = terms
        self._clock = clock
        self._log = structlog.get_logger("elman.store")
        self._leases = LeaseTable(store, terms, metrics, clock)
        self._checkpoint_writer = self._leases.writer
        self._health = StoreHealth(
            lease_seconds=terms.lease_seconds,
            timeout=store.timeout,
            go_on=go_on,
            clock=clock,
            metrics=metrics,
        )
        self._claimer = Claimer(store, terms, self._leases, self._health, clock)
        self._claim_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._health.restart()
        self._tasks = [
            asyncio.create_task(run(), name=f"elman-{run.__name__.strip('_')}")
            for run in (
                self._keep_renewing,
                self._keep_claiming,
                self._keep_asking,
                self._keep_saving,
            )
        ]

    def refuse(self) -> None:
        """Refuses all further claims."""
        self._claimer.close()

    async def stop(self) -> None:
        """Saves and releases all sessions, as far as possible within a few seconds, and closes the
        store."""
        self._claimer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._checkpoint_writer.save_all()
        except (TimeoutError, StoreUnavailable) as error:
            self._log.warning("named sessions not released", error=str(error) or "too late")
        except Exception:  # the remaining parts of the server must stop anyway
            self._log.exception("bug while named sessions were released")
        finally:
            await self._store.close()

    @property
    def sessions(self) -> int:
        """The number of named sessions open on this server."""
        return len(self._leases)

    @property
    def down(self) -> bool:
        """Whether the store can't be used."""
        return self._health.fence.down or self._checkpoint_writer.failing

    @property
    def lapsed(self) -> bool:
        """Whether another server may have claimed a session by now. If true, the server must not
        send any answers of named sessions."""
        return self._health.lapsed

    @property
    def waiting(self) -> int:
        """The number of named sessions with answers waiting for the store."""
        return self.sessions if self.lapsed else 0

    def watch(self, notify: Callable[[], None]) -> None:
        """Calls `notify` once, as soon as `lapsed` is false."""
        self._health.watch(notify)

    def unwatch(self, notify: Callable[[], None]) -> None:
        """Cancels a `watch`."""
        self._health.unwatch(notify)

    async def peek(self, key: str) -> bytes | None:
        """Returns a session's last checkpoint. Raises `StoreDown`."""
        self._health.require()
        try:
            return await self._store.peek(key)
        except StoreUnavailable as error:
            self._health.failed()
            raise StoreDown(str(error)) from None

    async def claim(
        self, key: str, owner: str, *, again: Resumption | None, wanted: Callable[[], bool]
    ) -> Claim | None:
        """Claims a session for `owner`, and waits for the current owner to release the session.

        Waiting ends early when `wanted` returns false. With `again`, the claim fails instead if
        another owner has had the session since.

        Returns None if the owner is unknown because the store is down. This needs `again` and
        `go_on`, and `owner` must be the last owner known to this server.

        Raises `SessionTaken`, `TicketRejected`, `SessionHeld`, `StoreDown` or `ShuttingDown`.
        """
        return await self._claimer.claim(key, owner, again=again, wanted=wanted)

    def hold(self, claim: Claim | None, named: NamedSession) -> Lease:
        """Holds a session from now on. Raises `SessionTaken` if a later claim holds the session
        already."""
        return self._leases.hold(claim, named)

    def release(self, claim: Claim) -> None:
        """Releases a claim without a session."""
        self._checkpoint_writer.release(claim)

    async def _keep_renewing(self) -> None:
        while True:
            begun = self._clock()
            try:
                await self._renew()
            except Exception as error:
                if not self._health.not_renewed(begun, error):
                    continue
            self._health.notify_watchers()
            try:
                # The period counts from start to start, because renewing very many claims takes
                # time.
                rest = begun + self._terms.renewal_seconds - self._clock()
                async with asyncio.timeout(max(0.0, rest)):
                    await self._health.renew_now.wait()
            except TimeoutError:
                pass
            self._health.renew_now.clear()

    async def _renew(self) -> None:
        begun = self._clock()
        self._health.fence.renews()
        every = list(self._leases)
        leases = {each.claim: each for each in every if each.claim is not None}
        renewal = await self._store.renew(
            list(leases) or [_PROBE], lease_seconds=self._terms.lease_seconds
        )
        was_down = self._health.renewed(begun)
        self._checkpoint_writer.renewed()
        if was_down:
            self._log.info("the state store is back", sessions=self.sessions)
            self._checkpoint_writer.wake()
        for claim in renewal.lost & leases.keys():
            self._leases.refuse(leases[claim], claim)
        for claim in renewal.wanted & leases.keys():
            self._leases.hand_over(leases[claim])
        for claim in renewal.forgotten & leases.keys():
            if not leases[claim].over:
                leases[claim].request_snapshot(force=True)
        if any(each.claim is None for each in every):
            self._claim_now.set()

    async def _keep_claiming(self) -> None:
        """Claims the sessions which could not be claimed during an outage."""
        while True:
            await self._claim_now.wait()
            self._claim_now.clear()
            await self._health.attempt(self._claimer.claim_late)

    async def _keep_asking(self) -> None:
        """Requests a snapshot of each session with new answers since the last checkpoint. Also
        refreshes a checkpoint before it expires in the store."""
        while True:
            await asyncio.sleep(self._terms.interval)
            await self._health.attempt(self._ask_all)

    async def _ask_all(self) -> None:
        now = self._clock()
        for count, lease in enumerate(self._leases.open_leases()):
            if lease.unsaved is not None:
                self._checkpoint_writer.add(lease)
            if now > lease.taken_at + self._terms.interval / 2:
                lease.request_snapshot(force=now > lease.saved_at + self._terms.ttl / 2)
            if count % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        self._checkpoint_writer.wake()

    async def _keep_saving(self) -> None:
        while True:
            await self._checkpoint_writer.due()
            await self._health.attempt(self._checkpoint_writer.save_all)
