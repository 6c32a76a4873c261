"""Redis in trouble: down, hanging, restarted, full; and what is in it when all is well."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from elman_server.durable.store.interface import Claim, Held, Renewal, StateStore, StoreUnavailable
from elman_server.durable.store.redis import RedisStore
from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import claimed, settle

TIMEOUT = 0.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One of the test's own, to do harm to."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    settle(server.url)
    store = RedisStore(server.url, timeout=TIMEOUT)
    yield store
    await store.close()


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


CALLS: dict[str, Callable[[StateStore, Claim], Awaitable[object]]] = {
    "claim": lambda store, claim: store.claim(claim.key, owner=claim.owner, lease_seconds=30),
    "renew": lambda store, claim: store.renew([claim], lease_seconds=30),
    "save": lambda store, claim: store.save({claim: b"x"}, ttl=30),
    "release": lambda store, claim: store.release(claim),
}
CLAIM = Claim(key="key", owner="a", generation=1)


# Down.


@pytest.mark.parametrize("call", CALLS)
async def test_a_redis_that_is_down_is_unavailable_and_nothing_else(
    server: RedisServer, store: RedisStore, call: str
) -> None:
    await claimed(store, "key", "a")
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await CALLS[call](store, CLAIM)


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    for url in ("redis://127.0.0.1:1", f"unix://{tmp_path}/none", "redis://nowhere.invalid"):
        store = RedisStore(url)
        with pytest.raises(StoreUnavailable):
            await store.claim("key", owner="a", lease_seconds=30)
        await store.close()


async def test_an_empty_redis_lends_nothing_for_the_length_of_a_lease(
    server: RedisServer, store: RedisStore
) -> None:
    held = await claimed(store, "key", "a", lease_seconds=0.5)
    server.kill()
    server.start()
    for again in (False, True):
        found = await store.claim("key", owner="b", lease_seconds=0.5, again=again)
        assert isinstance(found, Held) and found.generation == 0
        assert 0 < found.remaining <= 0.5
    assert await store.renew([held], lease_seconds=30) == Renewal(forgotten=frozenset({held}))
    await asyncio.sleep(0.5)
    assert isinstance(await store.claim("key", owner="b", lease_seconds=0.5), Held)
    await claimed(store, "free", "b", lease_seconds=0.5)


async def test_a_redis_that_comes_back_empty_goes_on(
    server: RedisServer, store: RedisStore
) -> None:
    mine, other = await claimed(store, "mine", "a"), await claimed(store, "other", "a")
    await store.save({mine: b"state"}, ttl=30)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.renew([mine, other], lease_seconds=30)
    server.start()
    settle(server.url)
    taken = await claimed(store, "other", "b")
    assert taken.generation > other.generation
    expected = Renewal(lost=frozenset({other}), forgotten=frozenset({mine}))
    assert await store.renew([mine, other], lease_seconds=30) == expected
    assert isinstance(await store.claim("mine", owner="b", lease_seconds=30), Held)
    assert await store.save({mine: b"again", other: b"late"}, ttl=30) == {other}
    await store.release(mine)
    last = await claimed(store, "mine", "b")
    assert last.checkpoint == b"again"
    assert last.generation > mine.generation


async def test_a_redis_that_forgot_the_scripts_is_taught_them_again(
    store: RedisStore, client: Redis
) -> None:
    for call in CALLS.values():
        await client.script_flush()
        await call(store, CLAIM)


# Hanging.


@pytest.mark.parametrize("call", CALLS)
async def test_a_redis_that_hangs_is_unavailable_before_long(
    server: RedisServer, store: RedisStore, call: str
) -> None:
    await claimed(store, "key", "a")
    server.pause()
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await CALLS[call](store, CLAIM)
    assert TIMEOUT * 0.9 < time.monotonic() - start < TIMEOUT + 2
    server.resume()
    await claimed(store, "other", "a")


async def test_those_who_wait_behind_one_that_hangs_do_not_hang_each(
    server: RedisServer, store: RedisStore
) -> None:
    await claimed(store, "key", "a")
    server.pause()
    start = time.monotonic()
    found = await asyncio.gather(
        *(store.claim(f"key{i}", owner="a", lease_seconds=30) for i in range(200)),
        return_exceptions=True,
    )
    assert all(isinstance(each, StoreUnavailable) for each in found)
    assert time.monotonic() - start < TIMEOUT + 2, "and not 25 times as long"
    server.resume()


async def test_an_answer_that_comes_too_late_is_not_taken_for_another(
    server: RedisServer, store: RedisStore
) -> None:
    await asyncio.gather(*(claimed(store, f"key{i}", "a") for i in range(50)))
    for _ in range(3):
        server.pause()
        await asyncio.gather(
            *(store.claim(f"late{i}", owner="a", lease_seconds=30) for i in range(20)),
            return_exceptions=True,
        )
        server.resume()
        await asyncio.gather(*(_own_bytes(store, f"key{i}") for i in range(50)))


async def test_a_caller_that_is_cancelled_leaves_nothing_behind(store: RedisStore) -> None:
    random.seed(5)
    for _ in range(20):
        tasks = [asyncio.create_task(_own_bytes(store, f"key{i}")) for i in range(20)]
        for _ in range(random.randrange(30)):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks[1::2])
        await asyncio.gather(*tasks, return_exceptions=True)


async def _own_bytes(store: RedisStore, key: str) -> None:
    claim = await claimed(store, key, "a")
    assert claim.checkpoint in (None, key.encode())
    await store.save({claim: key.encode()}, ttl=30)
    assert (await claimed(store, key, "a")).checkpoint == key.encode()


async def test_a_save_that_comes_after_the_one_that_followed_it_changes_nothing(
    server: RedisServer,
) -> None:
    """As when the first went into a connection that hung, and Redis reads that one last."""
    now = 100.0
    settle(server.url)
    store = RedisStore(server.url, clock=lambda: now)
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"second"}, ttl=30)
    now = 99.0
    assert await store.save({claim: b"first"}, ttl=30) == frozenset()
    claim = await claimed(store, "key", "a")
    assert claim.checkpoint == b"second"
    # Of the next claim all are new.
    await store.save({claim: b"third"}, ttl=30)
    assert (await claimed(store, "key", "a")).checkpoint == b"third"
    await store.close()


# There, but of no use.


async def test_a_full_redis_is_unavailable_and_nothing_is_half_done(
    store: RedisStore, client: Redis
) -> None:
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"state"}, ttl=30)
    await client.config_set("maxmemory", 1)
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable):
            await call(store, claim)
    await client.config_set("maxmemory", 0)
    assert await store.renew([claim], lease_seconds=30) == Renewal()
    assert (await claimed(store, "key", "a")).checkpoint == b"state"


async def test_a_replica_that_takes_no_writes_is_unavailable(
    store: RedisStore, client: Redis
) -> None:
    await client.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable):
        await store.claim("key", owner="a", lease_seconds=30)


async def test_a_wrong_password_is_unavailable(store: RedisStore, client: Redis) -> None:
    await client.config_set("requirepass", "secret")
    with pytest.raises(StoreUnavailable, match="uthentication"):
        await store.claim("key", owner="a", lease_seconds=30)


async def test_what_redis_does_not_do_is_a_store_that_is_unavailable(
    server: RedisServer, store: RedisStore, client: Redis
) -> None:
    await client.set("elman:{sessions}:record:key", "no hash")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.claim("key", owner="a", lease_seconds=30)
    elsewhere = RedisStore(f"{server.url}/4711")
    with pytest.raises(StoreUnavailable, match="index"):
        await elsewhere.claim("key", owner="a", lease_seconds=30)
    await elsewhere.close()


# Well.


async def test_every_key_has_the_prefix_and_one_tag_and_goes_away_by_itself(
    server: RedisServer, client: Redis
) -> None:
    settle(server.url, "mine:")
    store = RedisStore(server.url, prefix="mine:")
    claims = [await claimed(store, key, "a") for key in ("one", "{two}", "three")]
    await store.save(dict.fromkeys(claims, b"x"), ttl=30)
    await store.release(claims[0])
    await store.renew([Claim(key="four", owner="a", generation=1)], lease_seconds=30)
    await store.save({Claim(key="five", owner="a", generation=1): b"x"}, ttl=7200)
    keys = {str(key) for key in await client.keys()} - {"mine:{sessions}:since"}
    assert len(keys) == 5 + 4
    for key in keys:
        assert key.startswith("mine:{sessions}:")
        hours = 1 + 2 * key.endswith("five")
        assert 0 < await client.pttl(key) <= (hours * 3600 + 30) * 1000
    await store.close()


async def test_two_prefixes_are_two_stores(server: RedisServer) -> None:
    stores = [RedisStore(server.url, prefix=prefix) for prefix in ("one:", "two:")]
    for store, prefix in zip(stores, ("one:", "two:"), strict=True):
        settle(server.url, prefix)
        await store.save({await claimed(store, "key", "a"): b"x"}, ttl=30)
    await stores[0].save({await claimed(stores[0], "key", "a"): b"y"}, ttl=30)
    assert (await claimed(stores[1], "key", "a")).checkpoint == b"x"
    for store in stores:
        await store.close()


async def test_a_socket_is_as_good_as_a_port(server: RedisServer, store: RedisStore) -> None:
    other = RedisStore(f"unix://{server.socket}")
    await claimed(other, "key", "a")
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)
    await other.close()


async def test_however_many_call_there_are_few_connections(
    store: RedisStore, client: Redis
) -> None:
    await asyncio.gather(*(claimed(store, f"key{i}", "a") for i in range(500)))
    assert len(await client.client_list()) <= 8 + 1
