"""The folder: locks that are not given back, damage, what is left behind, and who can read it."""

import asyncio
import fcntl
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Held, Renewal, StoreUnavailable
from elman_server.durable.store.shard import SHARDS, digest, locked
from tests.server.durable.store.worlds import claimed

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path / "store", clock=clock, timeout=0.5)
    yield store
    await store.close()


def path(folder: Path, key: str, kind: str) -> Path:
    name = digest(key)
    return folder / "store" / name[:2] / (name + kind)


def files(folder: Path) -> set[str]:
    return {each.name for each in (folder / "store").glob("*/*") if each.name != "lock"}


async def sweep(store: FileStore, clock: Clock) -> None:
    """Uses the store for as long as it takes to sweep all of it."""
    for _ in range(SHARDS):
        clock.now += 5
        await store.renew([await claimed(store, "sweeper", "a")], lease_seconds=30)


async def test_only_its_owner_can_read_it(store: FileStore, tmp_path: Path) -> None:
    await store.save({await claimed(store, "key", "a"): b"x"}, ttl=30)
    for each in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        assert stat.S_IMODE(each.stat().st_mode) in (0o600, 0o700)


async def test_a_lock_that_is_not_given_back_is_unavailable_before_long(
    store: FileStore, tmp_path: Path
) -> None:
    claim = await claimed(store, "key", "a")
    lock = path(tmp_path, "key", "").parent / "lock"
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.save({claim: b"x"}, ttl=30)
        with pytest.raises(StoreUnavailable):
            await store.claim("key", owner="b", lease_seconds=30)
        assert time.monotonic() - start < 3
    assert await store.save({claim: b"y"}, ttl=30) == frozenset()
    assert (await claimed(store, "key", "a")).checkpoint == b"y"


async def test_a_folder_that_can_not_be_used_is_unavailable(
    store: FileStore, tmp_path: Path
) -> None:
    path(tmp_path, "key", "").parent.write_text("in the way")
    with pytest.raises(StoreUnavailable, match="can't be used"):
        await store.claim("key", owner="a", lease_seconds=30)


async def test_a_folder_that_was_emptied_lends_nothing_for_a_lease_and_goes_on(
    store: FileStore, clock: Clock, tmp_path: Path
) -> None:
    mine, other = await claimed(store, "mine", "a"), await claimed(store, "other", "a")
    shutil.rmtree(tmp_path / "store")
    clock.now += 0.001
    held = await store.claim("other", owner="b", lease_seconds=30)
    assert held == Held(generation=0, remaining=30)
    assert await store.renew([mine], lease_seconds=60) == Renewal(forgotten=frozenset({mine}))
    clock.now += 30
    assert isinstance(await store.claim("mine", owner="b", lease_seconds=30), Held)
    assert (await claimed(store, "other", "b")).generation > other.generation
    expected = Renewal(lost=frozenset({other}), wanted=frozenset({mine}))
    assert await store.renew([mine, other], lease_seconds=30) == expected


@pytest.mark.parametrize("noted", [b"", b"not a time"])
async def test_a_folder_whose_beginning_is_damaged_lends_nothing_for_a_lease(
    store: FileStore, clock: Clock, tmp_path: Path, noted: bytes
) -> None:
    (tmp_path / "store" / "since").write_bytes(noted)
    held = await store.claim("key", owner="a", lease_seconds=30)
    assert held == Held(generation=0, remaining=30)
    clock.now += 30
    await claimed(store, "key", "a")
    assert {path.name for path in (tmp_path / "store").iterdir() if path.is_file()} == {"since"}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:10],
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "a bit": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_checkpoint_counts_as_none(
    store: FileStore, tmp_path: Path, damage: str
) -> None:
    await store.save({await claimed(store, "key", "a"): b"x" * 100}, ttl=30)
    file = path(tmp_path, "key", ".checkpoint")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert (await claimed(store, "key", "a")).checkpoint is None


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_record_counts_as_forgotten(
    store: FileStore, tmp_path: Path, damage: str
) -> None:
    claim = await claimed(store, "key", "a")
    file = path(tmp_path, "key", ".record")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert await store.renew([claim], lease_seconds=30) == Renewal(forgotten=frozenset({claim}))
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)


async def test_a_shorter_record_takes_the_place_of_a_longer_one(store: FileStore) -> None:
    claim = await claimed(store, "key", "owner" * 100)
    await store.release(claim)
    assert await store.renew([await claimed(store, "key", "a")], lease_seconds=30) == Renewal()


async def test_what_was_left_half_written_is_not_read_and_is_swept(
    store: FileStore, clock: Clock, tmp_path: Path
) -> None:
    await store.save({await claimed(store, "key", "a", lease_seconds=HOUR): b"whole"}, ttl=2 * HOUR)
    unfinished = path(tmp_path, "key", ".checkpoint.unfinished")
    unfinished.write_bytes(b"half")
    await sweep(store, clock)
    assert not unfinished.exists()
    assert (await claimed(store, "key", "a")).checkpoint == b"whole"


async def test_what_expired_is_swept_and_its_record_an_hour_later(
    store: FileStore, clock: Clock, tmp_path: Path
) -> None:
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"x"}, ttl=30)
    await store.release(claim)
    # A shard that somebody is in is left to the next round.
    async with asyncio.timeout(30):
        while path(tmp_path, "key", ".checkpoint").exists():
            await sweep(store, clock)
    assert path(tmp_path, "key", ".record").exists()
    assert await store.renew([claim], lease_seconds=30) == Renewal(lost=frozenset({claim}))
    clock.now += HOUR
    async with asyncio.timeout(30):
        while files(tmp_path) != {digest("sweeper") + ".record"}:
            await sweep(store, clock)
    assert (await claimed(store, "key", "b")).generation > claim.generation


async def test_what_is_held_or_kept_is_not_swept(store: FileStore, clock: Clock) -> None:
    held = await claimed(store, "held", "a", lease_seconds=9 * HOUR)
    kept = await claimed(store, "kept", "a")
    await store.save({kept: b"x"}, ttl=9 * HOUR)
    await store.release(kept)
    clock.now += 8 * HOUR
    await sweep(store, clock)
    assert await store.renew([held], lease_seconds=30) == Renewal()
    assert (await claimed(store, "kept", "b")).checkpoint == b"x"


async def test_generations_grow_when_the_clock_is_put_back(store: FileStore, clock: Clock) -> None:
    first = await claimed(store, "key", "a")
    await store.release(first)
    clock.now -= HOUR
    assert (await claimed(store, "key", "b")).generation > first.generation


def test_a_shard_that_is_locked_is_locked_for_other_threads_and_processes(tmp_path: Path) -> None:
    with locked(str(tmp_path), 7):
        descriptor = os.open(tmp_path / "07" / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
