"""What has ended is saved; and while that can't be, no more is kept than memory allows."""

import time
from typing import Any

import pytest

from elman_server.durable.named import saving
from elman_server.durable.named.holding import Holding
from elman_server.durable.named.saving import Saver
from elman_server.durable.store.interface import Claim, StoreUnavailable
from elman_server.engine.snapshot import Snapshot
from elman_server.telemetry.metrics import Metrics


class FakeStore:
    def __init__(self) -> None:
        self.down = False
        self.saved: list[str] = []
        self.released: list[str] = []

    async def save(self, checkpoints: Any, *, ttl: float) -> frozenset[Claim]:
        if self.down:
            raise StoreUnavailable("down")
        self.saved += [claim.key for claim in checkpoints]
        return frozenset()

    async def release(self, *claims: Claim) -> frozenset[Claim]:
        self.released += [claim.key for claim in claims]
        return frozenset()


class FakeSession:
    position = 3


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def saver(store: Any) -> Saver:
    return Saver(
        store,
        Metrics().keeper(),
        ttl=60,
        clock=time.monotonic,
        refused=lambda holding, claim: holding.revoke(),
    )


def ended(saver: Saver, key: str) -> Holding:
    session: Any = FakeSession()
    holding = Holding(
        key=key,
        owner="me",
        claim=Claim(key=key, owner="me", generation=1),
        session=session,
        engine=session,
        seal=lambda snapshot: b"sealed",
        changed=lambda holding: None,
        now=0.0,
    )
    holding.snapshot(Snapshot(position=3, tensors=None))
    holding.ended()
    saver.leave(holding)
    return holding


async def test_however_many_end_at_once_all_are_saved_and_released(
    saver: Saver, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_MOST_LEAVING", 10)
    keys = [str(number) for number in range(600)]
    holdings = [ended(saver, key) for key in keys]
    await saver.save_all()
    assert store.saved == store.released == keys
    assert not saver.leaving
    assert all(holding.done for holding in holdings)


async def test_while_the_store_is_down_the_last_ones_are_kept(
    saver: Saver, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_MOST_LEAVING", 10)
    ended(saver, "first")
    store.down = True
    with pytest.raises(StoreUnavailable):
        await saver.save_all()
    for number in range(30):
        ended(saver, str(number))
    store.down = False
    await saver.save_all()
    assert sorted(store.saved, key=int) == [str(number) for number in range(20, 30)]


async def test_that_nothing_can_be_saved_is_told_if_claims_can_be_renewed(
    saver: Saver, store: FakeStore
) -> None:
    ended(saver, "1")
    store.down = True
    told = []
    for renewed in (False, False, True):
        if renewed:
            saver.renewed()
        with pytest.raises(StoreUnavailable):
            await saver.save_all()
        told.append(saver.failing)
    store.down = False
    await saver.save_all()
    assert [*told, saver.failing] == [False, False, True, False]
    assert store.released == ["1"]
