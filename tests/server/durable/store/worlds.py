"""A store of each kind, with the time that it goes by, for tests of what they have in common."""

import asyncio
import itertools
import time
from pathlib import Path
from typing import Protocol

from redis import Redis

from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Claim, StateStore
from elman_server.durable.store.redis import PREFIX, RedisStore

_prefixes = itertools.count()


class World(Protocol):
    url: str

    def store(self) -> StateStore:
        """As another process would open it. All are closed at the end."""
        ...

    def time(self) -> float:
        """Seconds, by the store's clock or one that goes as fast."""
        ...

    async def wait(self, seconds: float) -> None:
        """Until so much time has passed for the store."""
        ...


class RedisWorld:
    """Of an own prefix, so that one Redis has room for many."""

    def __init__(self, url: str) -> None:
        self._prefix = f"world{next(_prefixes)}:"
        self._url = url
        self.url = f"{url}?prefix={self._prefix}"
        self.stores: list[StateStore] = []
        settle(url, self._prefix)

    def store(self) -> StateStore:
        self.stores.append(RedisStore(self._url, prefix=self._prefix))
        return self.stores[-1]

    def time(self) -> float:
        return time.monotonic()

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.005)  # its clock counts whole milliseconds


class FileWorld:
    """Its time stands still but for `wait`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = 1_700_000_000.0
        self.url = f"file:{folder}"
        self.stores: list[StateStore] = []

    def store(self) -> StateStore:
        self.stores.append(FileStore(self._folder, clock=self.time))
        return self.stores[-1]

    def time(self) -> float:
        return self._now

    async def wait(self, seconds: float) -> None:
        self._now += seconds


def settle(url: str, prefix: str = PREFIX) -> None:
    """Has an empty Redis lend out keys at once, as one does that has had data for long."""
    with Redis.from_url(url) as client:
        client.set(f"{prefix}{{sessions}}:since", 0)


async def claimed(store: StateStore, key: str, owner: str, lease_seconds: float = 30) -> Claim:
    """A claim that has to succeed."""
    found = await store.claim(key, owner=owner, lease_seconds=lease_seconds)
    assert isinstance(found, Claim)
    return found
