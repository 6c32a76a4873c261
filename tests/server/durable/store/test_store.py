"""What every kind of store does, one owner after the other."""

import asyncio
import time

import pytest

from elman_server.durable.store.interface import Claim, Held, Renewal
from tests.server.durable.store.worlds import World, claimed

SHORT = 0.3
"""Seconds; a real Redis is waited for."""

KEYS = ["name", "", "a/b/../c", "{tag}:x", "Ünïcode 🜨", "line\nline", "x" * 5000]


@pytest.mark.parametrize("key", KEYS)
async def test_any_key_can_be_claimed_saved_and_claimed_again(world: World, key: str) -> None:
    store = world.store()
    claim = await claimed(store, key, "a")
    assert (claim.key, claim.owner, claim.checkpoint) == (key, "a", None)
    assert await store.save({claim: b"state"}, ttl=30) == frozenset()
    await store.release(claim)
    assert (await claimed(world.store(), key, "b")).checkpoint == b"state"


async def test_keys_do_not_touch_one_another(world: World) -> None:
    store = world.store()
    claims = [await claimed(store, key, "a") for key in KEYS]
    await store.save({claim: claim.key.encode() for claim in claims}, ttl=30)
    assert await store.release(*claims) == frozenset()
    for key in KEYS:
        assert (await claimed(store, key, "b")).checkpoint == key.encode()


async def test_a_key_whose_lease_runs_is_held(world: World) -> None:
    first = await claimed(world.store(), "key", "a", lease_seconds=30)
    found = await world.store().claim("key", owner="b", lease_seconds=30)
    assert isinstance(found, Held)
    assert found.generation == first.generation
    assert 25 < found.remaining <= 30


async def test_a_key_whose_lease_has_run_out_can_be_claimed(world: World) -> None:
    store = world.store()
    first = await claimed(store, "key", "a", lease_seconds=SHORT)
    await world.wait(SHORT)
    second = await claimed(store, "key", "b")
    assert second.generation > first.generation


async def test_what_is_held_can_be_waited_for(world: World) -> None:
    store = world.store()
    await claimed(store, "key", "a", lease_seconds=SHORT)
    found = await store.claim("key", owner="b", lease_seconds=30)
    assert isinstance(found, Held)
    await world.wait(found.remaining)
    await claimed(store, "key", "b")


async def test_a_renewed_lease_runs_on(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a", lease_seconds=SHORT)
    assert await store.renew([claim], lease_seconds=30) == Renewal()
    await world.wait(SHORT)
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)


async def test_a_lease_that_ran_out_can_be_renewed_while_nobody_has_claimed(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a", lease_seconds=SHORT)
    await world.wait(SHORT)
    assert await store.renew([claim], lease_seconds=30) == Renewal()
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)


async def test_an_owner_that_was_followed_can_do_nothing_more(world: World) -> None:
    store = world.store()
    old = await claimed(store, "key", "a", lease_seconds=SHORT)
    await store.save({old: b"old"}, ttl=30)
    await world.wait(SHORT)
    new = await claimed(store, "key", "b")
    await store.save({new: b"new"}, ttl=30)

    fenced = frozenset({old})
    assert await store.renew([old], lease_seconds=30) == Renewal(lost=fenced)
    assert await store.save({old: b"late"}, ttl=30) == fenced
    assert await store.release(old) == fenced

    assert await store.renew([new], lease_seconds=30) == Renewal()
    assert await store.save({new: b"newer"}, ttl=30) == frozenset()
    await store.release(new)
    assert (await claimed(store, "key", "c")).checkpoint == b"newer"


async def test_an_owner_that_claims_again_is_given_a_new_claim(world: World) -> None:
    store = world.store()
    first = await claimed(store, "key", "a")
    await store.save({first: b"state"}, ttl=30)
    second = await claimed(store, "key", "a")
    assert second.generation > first.generation
    assert second.checkpoint == b"state"
    assert (await store.renew([first, second], lease_seconds=30)) == Renewal(
        lost=frozenset({first})
    )


async def test_the_holder_is_told_at_each_renewal_that_a_key_is_wanted(world: World) -> None:
    store = world.store()
    claim, other = await claimed(store, "key", "a"), await claimed(store, "other", "a")
    assert await store.renew([claim, other], lease_seconds=30) == Renewal()
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)
    for _ in range(2):
        assert await store.renew([claim, other], lease_seconds=30) == Renewal(
            wanted=frozenset({claim})
        )
    await store.release(claim)
    taken = await claimed(store, "key", "b")
    assert await store.renew([taken], lease_seconds=30) == Renewal()


async def test_a_new_owner_is_not_asked_for_what_the_last_one_was_asked_for(world: World) -> None:
    store = world.store()
    await claimed(store, "key", "a", lease_seconds=SHORT)
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)
    await world.wait(SHORT)
    assert await store.renew([await claimed(store, "key", "c")], lease_seconds=30) == Renewal()


async def test_a_released_key_is_free_at_once_and_keeps_its_checkpoint(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"state"}, ttl=30)
    assert await store.release(claim) == frozenset()
    taken = await claimed(store, "key", "b")
    assert taken.generation > claim.generation
    assert taken.checkpoint == b"state"


async def test_what_was_given_up_is_not_the_owners_any_more(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a")
    assert await store.release(claim) == frozenset()
    fenced = frozenset({claim})
    assert await store.renew([claim], lease_seconds=30) == Renewal(lost=fenced)
    assert await store.save({claim: b"late"}, ttl=30) == fenced
    assert await store.release(claim) == fenced
    assert (await claimed(store, "key", "b")).checkpoint is None


async def test_a_checkpoint_is_kept_for_its_time(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"state"}, ttl=SHORT)
    assert (await claimed(store, "key", "a")).checkpoint == b"state"
    await world.wait(SHORT)
    assert (await claimed(store, "key", "a")).checkpoint is None


async def test_a_checkpoints_time_begins_again_when_it_is_saved_again(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a")
    await store.save({claim: b"one"}, ttl=SHORT)
    await store.save({claim: b"two"}, ttl=30)
    await world.wait(SHORT)
    assert (await claimed(store, "key", "a")).checkpoint == b"two"


async def test_saving_does_not_prolong_the_lease(world: World) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a", lease_seconds=SHORT)
    await store.save({claim: b"state"}, ttl=30)
    await world.wait(SHORT)
    assert await store.save({claim: b"later"}, ttl=30) == frozenset()
    assert (await claimed(store, "key", "b")).checkpoint == b"later"


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000, 5_000_000])
async def test_checkpoints_of_any_size_come_back_byte_for_byte(world: World, size: int) -> None:
    store = world.store()
    claim = await claimed(store, "key", "a")
    data = bytes(range(256)) * (size // 256) + b"\r" * (size % 256)
    await store.save({claim: data}, ttl=30)
    assert (await claimed(store, "key", "a")).checkpoint == data


async def test_of_many_claims_each_is_answered_for_itself(world: World) -> None:
    store = world.store()
    claims = await asyncio.gather(*(claimed(store, f"key{i}", "a") for i in range(700)))
    lost = frozenset(claims[::7])
    await store.release(*lost)
    wanted = frozenset(claims[1::7])
    for claim in wanted:
        await store.claim(claim.key, owner="b", lease_seconds=30)
    assert await store.renew(claims, lease_seconds=30) == Renewal(lost=lost, wanted=wanted)
    checkpoints = {claim: claim.key.encode() for claim in claims}
    assert await store.save(checkpoints, ttl=30) == lost
    assert await store.release(*claims) == lost
    for claim in claims[:20]:
        kept = None if claim in lost else claim.key.encode()
        assert (await claimed(store, claim.key, "c")).checkpoint == kept


async def test_large_batches_of_large_checkpoints_go_through(world: World) -> None:
    store = world.store()
    claims = [await claimed(store, f"key{i}", "a") for i in range(12)]
    checkpoints = {claim: claim.key.encode() * 200_000 for claim in claims}
    assert await store.save(checkpoints, ttl=30) == frozenset()
    for claim in claims:
        assert (await claimed(store, claim.key, "a")).checkpoint == checkpoints[claim]


async def test_of_nothing_nothing_comes(world: World) -> None:
    store = world.store()
    assert await store.renew([], lease_seconds=30) == Renewal()
    assert await store.save({}, ttl=30) == frozenset()
    assert await store.release() == frozenset()


async def test_claims_are_the_same_with_and_without_the_checkpoints_bytes(world: World) -> None:
    store = world.store()
    await store.save({await claimed(store, "key", "a"): b"state"}, ttl=30)
    claim = await claimed(store, "key", "a")
    assert claim.checkpoint == b"state"
    assert claim.emptied().checkpoint is None
    assert claim.emptied() == claim
    assert await store.save({claim.emptied(): b"more"}, ttl=30) == frozenset()


async def test_generations_grow_however_fast_claims_follow_one_another(world: World) -> None:
    store = world.store()
    generations = [(await claimed(store, "key", "a")).generation for _ in range(200)]
    assert generations == sorted(set(generations))


async def test_thousands_of_claims_are_renewed_in_a_moment(world: World) -> None:
    store = world.store()
    claims = await asyncio.gather(*(claimed(store, f"key{i}", "a") for i in range(3000)))
    start = time.perf_counter()
    assert await store.renew(claims, lease_seconds=30) == Renewal()
    seconds = time.perf_counter() - start
    print(f"{len(claims)} claims renewed in {seconds * 1000:.0f} ms")
    assert seconds < 5, "some hundred milliseconds are usual"


# A store that has lost its data.


async def test_a_forgotten_claim_is_taken_down_again(world: World) -> None:
    store = world.store()
    forgotten = Claim(key="key", owner="a", generation=1)
    assert await store.renew([forgotten], lease_seconds=30) == Renewal(
        forgotten=frozenset({forgotten})
    )
    assert await store.renew([forgotten], lease_seconds=30) == Renewal()
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30), Held)


async def test_a_forgotten_claim_can_save_before_it_is_renewed(world: World) -> None:
    store = world.store()
    forgotten = Claim(key="key", owner="a", generation=1)
    assert await store.save({forgotten: b"state"}, ttl=30) == frozenset()
    assert await store.renew([forgotten], lease_seconds=30) == Renewal()
    await store.release(forgotten)
    assert (await claimed(store, "key", "b")).checkpoint == b"state"


async def test_of_two_forgotten_claims_the_later_one_counts(world: World) -> None:
    store = world.store()
    old = Claim(key="key", owner="a", generation=1)
    new = Claim(key="key", owner="b", generation=2)
    await store.renew([old], lease_seconds=30)
    assert await store.renew([new], lease_seconds=30) == Renewal(forgotten=frozenset({new}))
    assert await store.save({old: b"old"}, ttl=30) == frozenset({old})
    assert await store.renew([old], lease_seconds=30) == Renewal(lost=frozenset({old}))


async def test_who_claims_a_forgotten_key_first_has_it(world: World) -> None:
    store = world.store()
    forgotten = Claim(key="key", owner="a", generation=1)
    await claimed(store, "key", "b")
    assert await store.renew([forgotten], lease_seconds=30) == Renewal(lost=frozenset({forgotten}))


async def test_a_forgotten_claim_can_be_given_up(world: World) -> None:
    store = world.store()
    forgotten = Claim(key="key", owner="a", generation=1)
    assert await store.release(forgotten) == frozenset()
    assert await store.renew([forgotten], lease_seconds=30) == Renewal(lost=frozenset({forgotten}))
    await claimed(store, "key", "b")


async def test_who_had_a_key_last_can_have_it_again(world: World) -> None:
    store = world.store()
    for end in ("release", "run out", "nothing"):
        first = await claimed(store, end, "a", lease_seconds=SHORT)
        await store.save({first: b"state"}, ttl=30)
        if end == "release":
            await store.release(first)
        elif end == "run out":
            await world.wait(SHORT)
        second = await store.claim(end, owner="a", lease_seconds=30, again=True)
        assert isinstance(second, Claim)
        assert (second.generation > first.generation, second.checkpoint) == (True, b"state")


async def test_what_nobody_ever_had_can_be_had_again(world: World) -> None:
    assert isinstance(
        await world.store().claim("key", owner="a", lease_seconds=30, again=True), Claim
    )


async def test_who_was_followed_cannot_have_a_key_again_and_does_not_ask_for_it(
    world: World,
) -> None:
    store = world.store()
    await store.release(await claimed(store, "key", "a"))
    other = await claimed(store, "key", "b", lease_seconds=SHORT)
    found = await store.claim("key", owner="a", lease_seconds=30, again=True)
    assert isinstance(found, Held) and found.remaining > 0
    assert await store.renew([other], lease_seconds=SHORT) == Renewal()
    await world.wait(SHORT)
    assert isinstance(await store.claim("key", owner="a", lease_seconds=30, again=True), Held)
    await store.release(other)
    found = await store.claim("key", owner="a", lease_seconds=30, again=True)
    assert found == Held(generation=other.generation, remaining=0)
    assert isinstance(await store.claim("key", owner="b", lease_seconds=30, again=True), Claim)


async def test_a_checkpoint_can_be_looked_at_whoever_has_the_key(world: World) -> None:
    store = world.store()
    assert await store.peek("key") is None
    claim = await claimed(store, "key", "a")
    assert await store.peek("key") is None
    await store.save({claim: b"state"}, ttl=SHORT)
    assert await world.store().peek("key") == b"state"
    assert await store.renew([claim], lease_seconds=30) == Renewal()
    await world.wait(SHORT)
    assert await store.peek("key") is None
