"""A state store in a folder, for the processes of one machine.

Leases follow the machine's wall clock. A single thread of the store works on the files, in the
order of the requests. `shard.py` defines the files' content and locking.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import randrange
from typing import TypeVar

from elman_server.durable.store.interface import Claim, Held, Renewal, StoreUnavailable
from elman_server.durable.store.record import Standing, milliseconds, refused, renewal
from elman_server.durable.store.shard import (
    SHARDS,
    Shard,
    digest,
    locked,
    note_start,
    shard_of,
    start,
)
from elman_server.durable.store.turns import Turns

TIMEOUT = 2.0
SWEEP_INTERVAL = 5.0

_T = TypeVar("_T")
_Change = Callable[[Shard, str, Claim, int], Standing]
"""A change for a claim. Arguments: shard, digest of the key, claim, time. Returns the claim's
standing before the change."""


class FileStore:
    """A `StateStore` of files. While in use, the store sweeps a shard every five seconds, in turn,
    so expired files disappear within about twenty minutes."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        timeout: float = TIMEOUT,
    ) -> None:
        """Creates a missing `folder`. Raises `OSError` on failure.

        `clock` returns seconds since 1970, and must agree between all users of the folder.
        `timeout`: seconds for the work on one shard, including the wait for other processes.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if start(str(folder)) is None:
            with suppress(OSError):  # not writable now
                note_start(str(folder), 0)
        self.timeout = timeout
        self._root = str(folder)
        self._clock = clock
        self._turns = Turns(at_once=1, timeout=timeout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elman-store")
        self._next_sweep = clock() + SWEEP_INTERVAL
        self._next_swept = randrange(SHARDS)

    async def claim(
        self, key: str, *, owner: str, lease_seconds: float, again: bool = False
    ) -> Claim | Held:
        return await self._run(partial(self._claim, key, owner, milliseconds(lease_seconds), again))

    async def peek(self, key: str) -> bytes | None:
        return await self._run(partial(self._peek, key))

    async def renew(self, claims: Collection[Claim], *, lease_seconds: float) -> Renewal:
        duration = milliseconds(lease_seconds)

        def renew(shard: Shard, name: str, claim: Claim, now: int) -> Standing:
            record = shard.record(name)
            standing = record.standing(claim)
            if standing is not Standing.LOST:
                shard.note(name, claim.key, record.recalled(claim).renewed(now + duration))
            return standing

        return renewal(await self._change(claims, renew))

    async def save(self, checkpoints: Mapping[Claim, bytes], *, ttl: float) -> frozenset[Claim]:
        duration = milliseconds(ttl)

        def save(shard: Shard, name: str, claim: Claim, now: int) -> Standing:
            record = shard.record(name)
            standing = record.standing(claim)
            if standing is not Standing.LOST:
                noted = record.recalled(claim).keeping(duration, now)
                if noted != record:
                    shard.note(name, claim.key, noted)
                shard.keep(name, checkpoints[claim], now + duration)
            return standing

        return refused(await self._change(checkpoints, save))

    async def release(self, *claims: Claim) -> frozenset[Claim]:
        def release(shard: Shard, name: str, claim: Claim, now: int) -> Standing:
            record = shard.record(name)
            standing = record.standing(claim)
            if standing is not Standing.LOST:
                shard.note(name, claim.key, record.recalled(claim).released(now))
            return standing

        return refused(await self._change(claims, release))

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _peek(self, key: str) -> bytes | None:
        name = digest(key)
        with locked(self._root, shard_of(name)) as shard:
            return shard.checkpoint(name, self._now())

    def _claim(self, key: str, owner: str, duration: int, again: bool) -> Claim | Held:
        name = digest(key)
        with locked(self._root, shard_of(name)) as shard:
            now = self._now()
            record = shard.record(name)
            if not record.generation and (wait := self._start() + duration - now) > 0:
                return Held(generation=0, remaining=wait / 1000)
            if record.followed(owner) if again else record.holds_off(owner, now):
                if not (again or record.wanted):
                    shard.note(name, key, record.marked())
                remaining = max(0, record.until - now) / 1000
                return Held(generation=record.generation, remaining=remaining)
            record = record.claimed(owner, now=now, until=now + duration)
            shard.note(name, key, record)
            return Claim(
                key=key,
                owner=owner,
                generation=record.generation,
                checkpoint=shard.checkpoint(name, now),
            )

    def _start(self) -> int:
        """Returns the time at which the folder's data begins: 0 for a new folder; the time of the
        first claim afterwards for a folder which was emptied while in use."""
        while (since := start(self._root)) is None:
            note_start(self._root, self._now())
        return since

    async def _change(
        self, claims: Iterable[Claim], change: _Change
    ) -> list[tuple[Claim, Standing]]:
        """Applies a change shard by shard. So neither other processes nor other calls wait for the
        whole change."""
        named: dict[int, list[tuple[str, Claim]]] = defaultdict(list)
        for claim in claims:
            name = digest(claim.key)
            named[shard_of(name)].append((name, claim))
        answers: list[tuple[Claim, Standing]] = []
        for number, group in named.items():
            answers += await self._run(partial(self._change_shard, number, group, change))
        return answers

    def _change_shard(
        self, number: int, group: list[tuple[str, Claim]], change: _Change
    ) -> list[tuple[Claim, Standing]]:
        with locked(self._root, number) as shard:
            now = self._now()
            return [(claim, change(shard, name, claim, now)) for name, claim in group]

    async def _run(self, work: Callable[[], _T]) -> _T:
        async def run() -> _T:
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._work, work)
            except OSError as error:
                raise StoreUnavailable(f"the state store can't be used: {error}") from error

        return await self._turns.take(run)

    def _work(self, work: Callable[[], _T]) -> _T:
        done = work()
        if self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + SWEEP_INTERVAL
            self._next_swept = (self._next_swept + 1) % SHARDS
            with locked(self._root, self._next_swept) as shard:
                shard.sweep(self._now())
        return done

    def _now(self) -> int:
        return int(self._clock() * 1000)
