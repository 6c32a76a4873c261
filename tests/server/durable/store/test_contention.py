"""Many who want one key at once, as tasks and as processes."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elman_server.durable.store.interface import Claim, Held
from elman_server.durable.store.opening import open_store
from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import World, claimed, settle

ROOT = Path(__file__).parents[4]
CONTENDER = [sys.executable, "-m", "tests.server.durable.store.contender"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"}


async def test_of_many_who_claim_at_once_one_gets_the_key(world: World) -> None:
    stores = [world.store() for _ in range(4)]
    found = await asyncio.gather(
        *(stores[i % 4].claim("key", owner=f"owner{i}", lease_seconds=30) for i in range(100))
    )
    (winner,) = [each for each in found if isinstance(each, Claim)]
    assert {each.generation for each in found if isinstance(each, Held)} == {winner.generation}


async def test_tasks_that_take_turns_lose_no_update(world: World) -> None:
    stores = [world.store() for _ in range(4)]
    tasks, rounds, inside = 12, 5, 0

    async def count(number: int) -> None:
        nonlocal inside
        store, done = stores[number % 4], 0
        while done < rounds:
            claim = await store.claim("key", owner=f"owner{number}", lease_seconds=30)
            if not isinstance(claim, Claim):
                continue
            inside += 1
            assert inside == 1
            total = int(claim.checkpoint or 0) + 1
            assert await store.save({claim: b"%d" % total}, ttl=30) == frozenset()
            inside -= 1
            assert await store.release(claim) == frozenset()
            done += 1

    await asyncio.gather(*map(count, range(tasks)))
    assert (await claimed(stores[0], "key", "last")).checkpoint == b"%d" % (tasks * rounds)


@pytest.fixture(params=["redis", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file:{tmp_path}"
    server: RedisServer = request.getfixturevalue("redis_server")
    settle(server.url, f"{tmp_path.name}:")
    return f"{server.url}?prefix={tmp_path.name}:"


async def test_processes_that_outstay_their_leases_lose_no_update(url: str) -> None:
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.server.durable.store.contender",
                url,
                "key",
                f"{i}",
                "25",
                "0.02",
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    taken = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(taken) > 0
    store = open_store(url)
    while isinstance(last := await store.claim("key", owner="last", lease_seconds=30), Held):
        await asyncio.sleep(last.remaining)
    assert last.checkpoint == b"%d" % sum(taken)
    await store.close()


HOLDER = """
import asyncio, sys
from elman_server.durable.store.opening import open_store

async def hold():
    store = open_store(sys.argv[1])
    claim = await store.claim("key", owner="holder", lease_seconds=0.5)
    await store.save({claim: b"state"}, ttl=60)
    print("held", flush=True)
    await asyncio.Event().wait()

asyncio.run(hold())
"""


async def test_what_a_killed_process_held_is_free_when_its_lease_has_run_out(url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    store = open_store(url)
    while isinstance(found := await store.claim("key", owner="heir", lease_seconds=30), Held):
        assert found.remaining <= 0.5
        await asyncio.sleep(found.remaining)
    assert found.checkpoint == b"state"
    await store.close()


LOCKER = """
import sys, time
from elman_server.durable.store.shard import digest, locked, shard_of

with locked(sys.argv[1], shard_of(digest("key"))):
    print("locked", flush=True)
    time.sleep(60)
"""


async def test_a_process_that_holds_a_folder_up_keeps_no_other_from_ending(tmp_path: Path) -> None:
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(tmp_path)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        program = (
            "import asyncio, sys\n"
            "from elman_server.durable.store.interface import StoreUnavailable\n"
            "from elman_server.durable.store.opening import open_store\n"
            "async def main():\n"
            "    store = open_store(f'file:{sys.argv[1]}')\n"
            "    try:\n"
            "        await store.claim('key', owner='a', lease_seconds=1)\n"
            "    except StoreUnavailable as error:\n"
            "        print(error)\n"
            "    await store.close()\n"
            "asyncio.run(main())\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert "does not let go" in found.stdout
    finally:
        locker.kill()
        locker.communicate()
