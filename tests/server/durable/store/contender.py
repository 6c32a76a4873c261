"""One of several processes that count on one key: URL, KEY, OWNER, ROUNDS, LEASE.

In each round it claims the key, reads the count in the checkpoint, and saves it increased by one,
sometimes after its lease has run out. Prints how many of its saves were taken.
"""

import asyncio
import random
import sys

from elman_server.durable.store.interface import Claim
from elman_server.durable.store.opening import open_store


async def contend(url: str, key: str, owner: str, rounds: int, lease_seconds: float) -> int:
    store = open_store(url)
    taken = 0
    for _ in range(rounds):
        while not isinstance(
            claim := await store.claim(key, owner=owner, lease_seconds=lease_seconds), Claim
        ):
            await asyncio.sleep(claim.remaining * random.random())
        count = int(claim.checkpoint or 0)
        await asyncio.sleep(lease_seconds * random.choice([0, 0, 0.5, 1.0, 1.5]))
        refused = await store.save({claim: b"%d" % (count + 1)}, ttl=60)
        taken += not refused
        await store.release(claim)
    await store.close()
    return taken


if __name__ == "__main__":
    url, key, owner, rounds, lease_seconds = sys.argv[1:]
    print(asyncio.run(contend(url, key, owner, int(rounds), float(lease_seconds))))
