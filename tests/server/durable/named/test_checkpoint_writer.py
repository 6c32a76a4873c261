"""What has ended is saved; and while that can't be, no more is kept than memory allows."""

import time
from typing import Any

import pytest

from elman_server.durable.named import checkpoint_writer as saving
from elman_server.durable.named.checkpoint_writer import CheckpointWriter
from elman_server.durable.named.lease import Lease, NamedSession
from elman_server.durable.store.interface import Claim, StoreUnavailable
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import STORE


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
def checkpoint_writer(store: Any) -> CheckpointWriter:
    return CheckpointWriter(
        store,
        Metrics().labels(STORE),
        ttl=60,
        clock=time.monotonic,
        refused=lambda lease, claim: lease.revoke(),
    )


def ended(checkpoint_writer: CheckpointWriter, key: str) -> Lease:
    session: Any = FakeSession()
    lease = Lease(
        NamedSession(
            key=key,
            owner="me",
            session=session,
            engine=session,
            seal=lambda snapshot: b"sealed",
        ),
        claim=Claim(key=key, owner="me", generation=1),
        changed=lambda lease: None,
        now=0.0,
    )
    lease.snapshot(Snapshot(position=3, tensors=None))
    lease.ended()
    checkpoint_writer.add_ended(lease)
    return lease


async def test_however_many_end_at_once_all_are_saved_and_released(
    checkpoint_writer: CheckpointWriter, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_MOST_ENDED", 10)
    keys = [str(number) for number in range(600)]
    leases = [ended(checkpoint_writer, key) for key in keys]
    await checkpoint_writer.save_all()
    assert store.saved == store.released == keys
    assert not checkpoint_writer.ended
    assert all(lease.done for lease in leases)


async def test_while_the_store_is_down_the_last_ones_are_kept(
    checkpoint_writer: CheckpointWriter, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_MOST_ENDED", 10)
    ended(checkpoint_writer, "first")
    store.down = True
    with pytest.raises(StoreUnavailable):
        await checkpoint_writer.save_all()
    for number in range(30):
        ended(checkpoint_writer, str(number))
    store.down = False
    await checkpoint_writer.save_all()
    assert sorted(store.saved, key=int) == [str(number) for number in range(20, 30)]


async def test_that_nothing_can_be_saved_is_told_if_claims_can_be_renewed(
    checkpoint_writer: CheckpointWriter, store: FakeStore
) -> None:
    ended(checkpoint_writer, "1")
    store.down = True
    told = []
    for renewed in (False, False, True):
        if renewed:
            checkpoint_writer.renewed()
        with pytest.raises(StoreUnavailable):
            await checkpoint_writer.save_all()
        told.append(checkpoint_writer.failing)
    store.down = False
    await checkpoint_writer.save_all()
    assert [*told, checkpoint_writer.failing] == [False, False, True, False]
    assert store.released == ["1"]
