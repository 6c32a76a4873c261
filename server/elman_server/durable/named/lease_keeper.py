"""The keeper of a server's named sessions: claims, leases and checkpoints.

The keeper renews every claim three times per lease. After the server was cut off from the store for
more than a lease, or stood still, the next renewal shows whether other servers have claimed its
sessions. Until this renewal has succeeded, `lapsed` is true and the server must not send answers of
named sessions. With `go_on`, sessions continue during an outage of the store, once a renewal has
detected the outage. The keeper saves their progress after the outage.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from elman_server.durable.named.checkpoint_writer import CheckpointWriter
from elman_server.durable.named.fence import Fence
from elman_server.durable.named.lease import Lease, Sessions
from elman_server.durable.named.rewinding import Resumption
from elman_server.durable.store.interface import Claim, Held, StateStore, StoreUnavailable
from elman_server.engine.session import Session
from elman_server.engine.snapshot import Snapshot
from elman_server.errors import SessionHeld, SessionTaken, ShuttingDown, StoreDown
from elman_server.telemetry.metrics import LabelledMetrics
from elman_server.telemetry.table import STORE_FAILURES

_RENEWALS = 3
"""Renewals per lease."""
_CLAIMS = 5
"""Attempts to claim a session. An attempt fails if the store's answer arrives so late that the
claim may already belong to another owner."""
_AGAIN_SECONDS = 0.1
"""Seconds between two attempts to claim a session during another owner's lease. A store does not
notify waiting servers of a release."""
_AT_ONCE = 250
"""Sessions to check before the event loop runs other tasks."""
_PULSE = Claim(key="", owner="", generation=1)
"""A claim to renew if the server has no session. Its renewal detects a store without write
access."""
_STOP_SECONDS = 3.0

if hasattr(time, "CLOCK_BOOTTIME"):

    def _seconds() -> float:
        """Returns the seconds of a clock which also counts while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    _seconds = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Durations in seconds."""

    lease_seconds: float
    ttl: float
    """How long the store keeps an unused session."""
    interval: float
    """Time between two checkpoints of a session."""

    @property
    def patience(self) -> float:
        """How long to wait for another owner's session. The owner may have died, or may still have
        to answer pushed elements."""
        return 2 * self.lease_seconds + 5


class LeaseKeeper:
    """The named sessions of one event loop."""

    def __init__(
        self,
        store: StateStore,
        terms: Terms,
        metrics: LabelledMetrics,
        *,
        go_on: bool,
        clock: Callable[[], float] = _seconds,
    ) -> None:
        """`go_on`: whether sessions continue during an outage of the store. If false, they wait."""
        self._store = store
        self._go_on = go_on
        self._terms = terms
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("elman.store")
        self._held: dict[str, Lease] = {}
        self._checkpoint_writer = CheckpointWriter(
            store, metrics, ttl=terms.ttl, clock=clock, refused=self._refused
        )
        self._renew_now = asyncio.Event()
        self._claim_now = asyncio.Event()
        self._watchers: set[Callable[[], None]] = set()
        self._fence = self._new_fence()
        self._trouble = ""
        """The error of the last failed renewal."""
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._fence = self._new_fence()
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
        self._closed = True

    async def stop(self) -> None:
        """Saves and releases all sessions, as far as possible within a few seconds, and closes the
        store."""
        self._closed = True
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
        return len(self._held)

    @property
    def down(self) -> bool:
        """Whether the store can't be used."""
        return self._fence.down or self._checkpoint_writer.failing

    @property
    def lapsed(self) -> bool:
        """Whether another server may have claimed a session by now. If true, the server must not
        send any answers of named sessions."""
        return self._fence.lapsed(self._clock())

    @property
    def waiting(self) -> int:
        """The number of named sessions with answers waiting for the store."""
        return self.sessions if self.lapsed else 0

    def watch(self, notify: Callable[[], None]) -> None:
        """Calls `notify` once, as soon as `lapsed` is false."""
        if not self._watchers:
            self._renew_now.set()
        self._watchers.add(notify)

    def unwatch(self, notify: Callable[[], None]) -> None:
        """Cancels a `watch`."""
        self._watchers.discard(notify)

    async def peek(self, key: str) -> bytes | None:
        """Returns a session's last checkpoint. Raises `StoreDown`."""
        self._require_store()
        try:
            return await self._store.peek(key)
        except StoreUnavailable as error:
            self._doubt()
            raise StoreDown(str(error)) from None

    async def claim(
        self,
        key: str,
        owner: str,
        *,
        again: Resumption | None,
        wanted: Callable[[], bool],
    ) -> Claim | None:
        """Claims a session for `owner`, and waits for the current owner to release the session.

        Waiting ends early when `wanted` returns false. With `again`, the claim fails instead if
        another owner has had the session since.

        Returns None if the owner is unknown because the store is down. This needs `again` and
        `go_on`, and `owner` must be the last owner known to this server.

        Raises `SessionTaken`, `TicketRejected`, `SessionHeld`, `StoreDown` or `ShuttingDown`.
        """
        until = self._clock() + self._terms.patience
        while True:
            if not wanted():
                raise SessionHeld("nobody wants the session any more")
            if self._closed:
                raise ShuttingDown("the server is stopping")
            self._require_store()
            here, left = self._held.get(key), self._checkpoint_writer.left(key)
            if again is not None and left is not None and left.owner == owner:
                again.check(left.session.position)  # this position is about to be saved
            if here is not None and here.owner == owner:
                if again is not None:
                    again.check(here.session.position)
                here.revoke()  # the client has reconnected
            wait = self._fence.lends_from - self._clock()
            if wait <= 0:
                try:
                    found = await self._claim(key, owner, again=again is not None)
                except StoreUnavailable as error:
                    self._doubt()
                    if not (again and self._go_on):
                        raise StoreDown(str(error)) from None
                    if key in self._held:
                        # Only the store knows which of the two claims is later.
                        raise StoreDown(
                            f"another client has the session here, and may have it: {error}"
                        ) from None
                    return None
                if isinstance(found, Claim):
                    return found
                if again and found.generation:
                    raise SessionTaken("another client has opened the session by its name since")
                if (here := self._held.get(key)) is not None:
                    self._give_up(here)
                wait = found.remaining
            if self._clock() >= until:
                raise SessionHeld("another server has the session and does not let go of it")
            await asyncio.sleep(min(wait, _AGAIN_SECONDS))

    async def _claim(self, key: str, owner: str, *, again: bool) -> Claim | Held:
        """Claims a session, with an answer early enough for a renewal before the lease ends. Raises
        `StoreUnavailable` after too many late answers."""
        for _ in range(_CLAIMS):
            asked = self._clock()
            found = await self._store.claim(
                key, owner=owner, lease_seconds=self._terms.lease_seconds, again=again
            )
            if isinstance(found, Held):
                return found
            if self._clock() < asked + self._terms.lease_seconds / _RENEWALS:
                self._fence.claimed(asked)
                return found
        raise StoreUnavailable("the state store answers too slowly for the lease")

    def hold(
        self,
        claim: Claim | None,
        *,
        key: str,
        owner: str,
        session: Session,
        engine: Sessions,
        seal: Callable[[Snapshot], bytes],
        floor: int = 0,
    ) -> Lease:
        """Holds a session from now on. Checkpoints are saved from position `floor` on.

        Raises `SessionTaken` if a later claim holds the session already.
        """
        older = self._held.get(key)
        if older is not None:
            if claim and older.claim and older.claim.generation > claim.generation:
                raise SessionTaken("another client has opened the session by its name meanwhile")
            older.revoke()
        lease = Lease(
            key=key,
            owner=owner,
            claim=claim and claim.emptied(),
            session=session,
            engine=engine,
            seal=seal,
            changed=self._changed,
            now=self._clock(),
            floor=floor,
        )
        self._held[key] = lease
        return lease

    def release(self, claim: Claim) -> None:
        """Releases a claim without a session."""
        self._checkpoint_writer.release(claim)

    def _changed(self, lease: Lease) -> None:
        lease.taken_at = self._clock()
        if (lease.over or lease.lost) and self._held.get(lease.key) is lease:
            del self._held[lease.key]
        if lease.lost:
            self._checkpoint_writer.forget(lease)
        elif lease.over:
            self._checkpoint_writer.leave(lease)
        elif self._clock() >= lease.saved_at + self._terms.interval / 2:
            self._checkpoint_writer.add(lease)  # else the next request is soon enough
            self._checkpoint_writer.wake()

    def _give_up(self, lease: Lease) -> None:
        lease.give_up(self._clock(), patience=self._terms.lease_seconds)

    # -------------------------------------------------------------------------------------------
    # Renewing

    async def _keep_renewing(self) -> None:
        while True:
            begun = self._clock()
            try:
                await self._renew()
            except Exception as error:
                self._told(error)
                if not self._not_renewed(begun, error):
                    continue
            if self._watchers and not self.lapsed:
                watchers, self._watchers = self._watchers, set()
                for notify in watchers:
                    notify()
            try:
                # The period counts from start to start, because renewing very many claims takes
                # time.
                rest = begun + self._terms.lease_seconds / _RENEWALS - self._clock()
                async with asyncio.timeout(max(0.0, rest)):
                    await self._renew_now.wait()
            except TimeoutError:
                pass
            self._renew_now.clear()

    async def _renew(self) -> None:
        begun = self._clock()
        self._fence.renews()
        every = [*self._held.values(), *self._checkpoint_writer.leaving]
        leases = {each.claim: each for each in every if each.claim is not None}
        renewal = await self._store.renew(
            list(leases) or [_PULSE], lease_seconds=self._terms.lease_seconds
        )
        self._renewed(begun)
        for claim in renewal.lost & leases.keys():
            self._refused(leases[claim], claim)
        for claim in renewal.wanted & leases.keys():
            self._give_up(leases[claim])
        for claim in renewal.forgotten & leases.keys():
            if not leases[claim].over:
                leases[claim].ask(anyhow=True)
        if any(each.claim is None for each in every):
            self._claim_now.set()

    def _refused(self, lease: Lease, claim: Claim) -> None:
        """Handles a claim refused by the store: the store knows a later claim, or the claim was
        released."""
        if lease.claim != claim or lease.letting_go:
            return
        if lease.done:  # the next owner continues after the session's last answer
            self._checkpoint_writer.forget(lease)
        else:
            lease.revoke()

    # -------------------------------------------------------------------------------------------
    # Claiming late

    async def _keep_claiming(self) -> None:
        """Claims the sessions which could not be claimed during an outage."""
        while True:
            await self._claim_now.wait()
            self._claim_now.clear()
            await self._attempt(self._claim_late)

    async def _claim_late(self) -> None:
        # A client may have reconnected several times during the outage. Only its last session
        # counts.
        last = {each.key: each for each in (*self._checkpoint_writer.leaving, *self._held.values())}
        late = [each for each in last.values() if each.claim is None]
        for each in [each for each in self._checkpoint_writer.leaving if each.claim is None]:
            if last[each.key] is not each:
                self._checkpoint_writer.forget(each)
        found = await asyncio.gather(*map(self._claim_one_late, late), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error

    async def _claim_one_late(self, lease: Lease) -> None:
        found = await self._claim(lease.key, lease.owner, again=True)
        if not isinstance(found, Claim):
            if found.generation:
                lease.revoke()
        elif not lease.lost:
            lease.claim = found.emptied()
            self._changed(lease)
        elif (here := self._held.get(lease.key)) is None or here.owner != lease.owner:
            self._checkpoint_writer.release(found)
        elif here.claim is None or here.claim.generation < found.generation:
            here.claim = found.emptied()  # the same client has reconnected in the meantime

    # -------------------------------------------------------------------------------------------
    # Saving

    async def _keep_asking(self) -> None:
        """Requests a snapshot of each session with new answers since the last checkpoint. Also
        refreshes a checkpoint before it expires in the store."""
        while True:
            await asyncio.sleep(self._terms.interval)
            await self._attempt(self._ask_all)

    async def _ask_all(self) -> None:
        now = self._clock()
        for count, lease in enumerate(list(self._held.values())):
            if lease.unsaved is not None:
                self._checkpoint_writer.add(lease)
            if now > lease.taken_at + self._terms.interval / 2:
                lease.ask(anyhow=now > lease.saved_at + self._terms.ttl / 2)
            if count % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        self._checkpoint_writer.wake()

    async def _keep_saving(self) -> None:
        while True:
            await self._checkpoint_writer.due()
            await self._attempt(self._checkpoint_writer.save_all)

    # -------------------------------------------------------------------------------------------
    # The store's condition

    def _new_fence(self) -> Fence:
        return Fence(
            lease_seconds=self._terms.lease_seconds,
            timeout=self._store.timeout,
            now=self._clock(),
            go_on=self._go_on,
        )

    def _renewed(self, begun: float) -> None:
        was_down = self._fence.down
        self._fence.renewed(begun, self._clock())
        self._checkpoint_writer.renewed()
        if (took := self._clock() - begun) > self._terms.lease_seconds:
            self._log.warning("claims are renewed too slowly for their lease", seconds=took)
        if was_down:
            self._log.info("the state store is back", sessions=self.sessions)
            self._checkpoint_writer.wake()

    def _not_renewed(self, begun: float, error: Exception) -> bool:
        """Records a failed renewal. Returns whether the store now counts as down."""
        was_down = self._fence.down
        decided = self._fence.failed(begun, self._clock())
        if decided:
            self._trouble = str(error)
        if decided and not was_down:
            what = "go on without" if self._go_on else "wait for"
            self._log.warning(f"named sessions {what} the state store", error=str(error))
        return decided

    def _require_store(self) -> None:
        """Raises `StoreDown` if the store is known to be down and sessions have to wait for the
        store."""
        if self._fence.down and not self._go_on:
            self._renew_now.set()
            raise StoreDown(self._trouble)

    def _doubt(self) -> None:
        """Counts a failed call, and starts a renewal, which decides whether the store is down."""
        self._metrics.inc(STORE_FAILURES)
        self._renew_now.set()

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` once. Logs an error instead of raising, so that the caller's loop
        continues."""
        try:
            await work()
        except Exception as error:
            self._told(error)
            self._renew_now.set()

    def _told(self, error: Exception) -> None:
        self._metrics.inc(STORE_FAILURES)
        if not isinstance(error, StoreUnavailable):
            self._log.exception("bug while named sessions were kept")
