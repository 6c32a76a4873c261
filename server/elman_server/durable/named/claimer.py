"""Claims of named sessions: at the opening, and late after an outage of the store."""

import asyncio
from collections.abc import Callable

from elman_server.durable.named.lease import Lease
from elman_server.durable.named.lease_table import LeaseTable
from elman_server.durable.named.rewinding import Resumption
from elman_server.durable.named.store_health import StoreHealth
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.interface import Claim, Held, StateStore, StoreUnavailable
from elman_server.errors import SessionHeld, SessionTaken, ShuttingDown, StoreDown

_ATTEMPTS = 5
"""Attempts to claim a session. An attempt fails if the store's answer arrives so late that the
claim may already belong to another owner."""
_RETRY_SECONDS = 0.1
"""Seconds between two attempts to claim a session during another owner's lease. A store does not
notify waiting servers of a release."""


class Claimer:
    def __init__(
        self,
        store: StateStore,
        terms: Terms,
        leases: LeaseTable,
        health: StoreHealth,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._terms = terms
        self._leases = leases
        self._health = health
        self._clock = clock
        self._closed = False

    def close(self) -> None:
        """Refuses all further claims."""
        self._closed = True

    async def claim(
        self, key: str, owner: str, *, again: Resumption | None, wanted: Callable[[], bool]
    ) -> Claim | None:
        """Claims a session as described at `LeaseKeeper.claim`."""
        until = self._clock() + self._terms.patience
        while True:
            if not wanted():
                raise SessionHeld("nobody wants the session any more")
            if self._closed:
                raise ShuttingDown("the server is stopping")
            self._health.require()
            self._end_own(key, owner, again)
            wait = self._health.lending_delay
            if wait <= 0:
                try:
                    answer = await self._claim(key, owner, again=again is not None)
                except StoreUnavailable as error:
                    self._health.failed()
                    if again and self._health.go_on:
                        self._require_unheld(key, error)
                        return None
                    raise StoreDown(str(error)) from None
                if isinstance(answer, Claim):
                    return answer
                if again and answer.generation:
                    raise SessionTaken("another client has opened the session by its name since")
                if (lease := self._leases.get(key)) is not None:
                    self._leases.hand_over(lease)
                wait = answer.remaining
            if self._clock() >= until:
                raise SessionHeld("another server has the session and does not let go of it")
            await asyncio.sleep(min(wait, _RETRY_SECONDS))

    def _end_own(self, key: str, owner: str, again: Resumption | None) -> None:
        """Ends the owner's previous session on this server: the client has reconnected. Raises
        `TicketRejected` if the client's ticket would undo the previous session."""
        lease, ended = self._leases.get(key), self._leases.writer.last_ended(key)
        if again is not None and ended is not None and ended.owner == owner:
            again.check(ended.session.position)  # this position is about to be saved
        if lease is not None and lease.owner == owner:
            if again is not None:
                again.check(lease.session.position)
            lease.revoke()

    def _require_unheld(self, key: str, error: StoreUnavailable) -> None:
        """Raises `StoreDown` if the session is open here: only the store knows which of the two
        claims is later."""
        if self._leases.get(key) is not None:
            raise StoreDown(
                f"another client has the session here, and may have it: {error}"
            ) from None

    async def _claim(self, key: str, owner: str, *, again: bool) -> Claim | Held:
        """Claims a session, with an answer early enough for a renewal before the lease ends. Raises
        `StoreUnavailable` after too many late answers."""
        for _ in range(_ATTEMPTS):
            asked = self._clock()
            answer = await self._store.claim(
                key, owner=owner, lease_seconds=self._terms.lease_seconds, again=again
            )
            if isinstance(answer, Held):
                return answer
            if self._clock() < asked + self._terms.renewal_seconds:
                self._health.fence.claimed(asked)
                return answer
        raise StoreUnavailable("the state store answers too slowly for the lease")

    async def claim_late(self) -> None:
        """Claims the sessions which could not be claimed during an outage. A client may have
        reconnected several times during the outage; only its last session counts."""
        writer = self._leases.writer
        last = {each.key: each for each in (*writer.ended, *self._leases.open_leases())}
        late = [each for each in last.values() if each.claim is None]
        for each in [each for each in writer.ended if each.claim is None]:
            if last[each.key] is not each:
                writer.forget(each)
        results = await asyncio.gather(*map(self._claim_one_late, late), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                raise error

    async def _claim_one_late(self, lease: Lease) -> None:
        answer = await self._claim(lease.key, lease.owner, again=True)
        if not isinstance(answer, Claim):
            if answer.generation:
                lease.revoke()
        elif not lease.lost:
            lease.claim = answer.emptied()
            self._leases.update(lease)
        elif (here := self._leases.get(lease.key)) is None or here.owner != lease.owner:
            self._leases.writer.release(answer)
        elif here.claim is None or here.claim.generation < answer.generation:
            here.claim = answer.emptied()  # the same client has reconnected in the meantime
