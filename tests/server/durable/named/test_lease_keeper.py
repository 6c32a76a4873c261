"""What a server believes of its claims beside what the store knows of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from elman_server.durable.named.lease import NamedSession
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Claim
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import STORE

LEASE = 1.0


class Slow:
    """A store whose answers take their time."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self.timeout = store.timeout
        self.renewing = asyncio.Event()

    async def claim(self, *arguments: Any, **options: Any) -> Any:
        found = await self._store.claim(*arguments, **options)
        await asyncio.sleep(LEASE / 4)
        return found

    async def renew(self, *arguments: Any, **options: Any) -> Any:
        found = await self._store.renew(*arguments, **options)
        self.renewing.set()
        await asyncio.sleep(0.9 * LEASE)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[FileStore]:
    """The store as others see it."""
    store = FileStore(tmp_path / "store")
    yield store
    await store.close()


async def test_a_claim_that_a_slow_renewal_did_not_have_is_not_taken_for_renewed(
    tmp_path: Path, outside: FileStore
) -> None:
    store: Any = Slow(FileStore(tmp_path / "store"))
    terms = Terms(lease_seconds=LEASE, ttl=60.0, interval=60.0)
    lease_keeper = LeaseKeeper(store, terms, Metrics().labels(STORE), go_on=False)
    lease_keeper.start()
    try:
        await store.renewing.wait()
        store.renewing.clear()
        # The claim is asked for shortly before the next renewal begins, and got after.
        await asyncio.sleep(0.75 * LEASE)
        claim = await lease_keeper.claim("bob", "us", again=None, wanted=lambda: True)
        session: Any = SimpleNamespace(position=0, ended=None)
        named = NamedSession(
            key="bob", owner="us", session=session, engine=Mock(), seal=lambda _: b""
        )
        lease = lease_keeper.hold(claim, named)
        assert store.renewing.is_set()
        end = asyncio.get_running_loop().time() + 3 * LEASE
        while not isinstance(
            await outside.claim("bob", owner="them", lease_seconds=60.0, again=False), Claim
        ):
            if asyncio.get_running_loop().time() > end:
                return  # on a busy machine the next renewal may come before the lease is over
            await asyncio.sleep(0.01)
        # Until it knows that another has the session.
        while not lease.lost:
            assert lease_keeper.lapsed
            await asyncio.sleep(0.005)
    finally:
        await lease_keeper.stop()
