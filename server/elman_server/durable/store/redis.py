"""A state store in Redis or Valkey, for servers on any machines. The only module with a redis
import.

Each change is one script, at the time of Redis' clock. All keys share a hash tag, so a Redis
Cluster keeps them in the same slot. The store therefore works on a cluster, within the limits for
scripts with several keys.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from elman_server.durable.store import scripts
from elman_server.durable.store.batches import batches
from elman_server.durable.store.interface import Claim, Held, Renewal, StoreUnavailable
from elman_server.durable.store.record import Standing, milliseconds, refused, renewal
from elman_server.durable.store.turns import Turns

PREFIX = "elman:"
TIMEOUT = 2.0
CONNECTIONS = 8


class RedisStore:
    """A `StateStore` in Redis. Connects at the first call, and reconnects after a connection
    loss."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url`: a URL for redis-py; raises `ValueError` for any other. `prefix`: prefix of all
        keys, without braces. `timeout`: seconds for one script, including the connection. `clock`:
        a monotonic clock in seconds, for detecting a late save after a newer save."""
        self._client = Redis.from_url(
            url,
            protocol=2,
            # `Turns` limits the total time.
            socket_timeout=None,
            socket_connect_timeout=None,
            # The loss of an idle connection is no failure of the store.
            retry=Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
        )
        self.timeout = timeout
        self._prefix = f"{prefix}{{sessions}}:"
        self._clock = clock
        self._turns = Turns(at_once=CONNECTIONS, timeout=timeout)
        self._claim = self._client.register_script(scripts.CLAIM)
        self._peek = self._client.register_script(scripts.PEEK)
        self._renew = self._client.register_script(scripts.RENEW)
        self._save = self._client.register_script(scripts.SAVE)
        self._release = self._client.register_script(scripts.RELEASE)

    async def claim(
        self, key: str, *, owner: str, lease_seconds: float, again: bool = False
    ) -> Claim | Held:
        taken, generation, rest = await self._run(
            self._claim,
            [self._record(key), self._checkpoint(key), f"{self._prefix}since"],
            [owner, milliseconds(lease_seconds), int(again)],
        )
        if not taken:
            return Held(generation=int(generation), remaining=int(rest) / 1000)
        return Claim(key=key, owner=owner, generation=int(generation), checkpoint=rest)

    async def peek(self, key: str) -> bytes | None:
        found: bytes | None = await self._run(self._peek, [self._checkpoint(key)], [])
        return found

    async def renew(self, claims: Collection[Claim], *, lease_seconds: float) -> Renewal:
        duration = milliseconds(lease_seconds)
        answers: list[tuple[Claim, Standing]] = []
        for batch in batches(claims):
            keys = [self._record(claim.key) for claim in batch]
            answers += await self._ask(self._renew, batch, keys, [duration, *_shown(batch)])
        return renewal(answers)

    async def save(self, checkpoints: Mapping[Claim, bytes], *, ttl: float) -> frozenset[Claim]:
        duration = milliseconds(ttl)
        number = int(self._clock() * 1_000_000)
        answers: list[tuple[Claim, Standing]] = []
        for batch in batches(checkpoints, lambda claim: len(checkpoints[claim])):
            keys = self._both(batch)
            arguments = [
                field
                for claim in batch
                for field in (claim.generation, claim.owner, checkpoints[claim])
            ]
            answers += await self._ask(self._save, batch, keys, [duration, number, *arguments])
        return refused(answers)

    async def release(self, *claims: Claim) -> frozenset[Claim]:
        answers: list[tuple[Claim, Standing]] = []
        for batch in batches(claims):
            keys = [self._record(claim.key) for claim in batch]
            answers += await self._ask(self._release, batch, keys, _shown(batch))
        return refused(answers)

    async def close(self) -> None:
        await self._client.aclose()

    def _record(self, key: str) -> str:
        return f"{self._prefix}record:{key}"

    def _checkpoint(self, key: str) -> str:
        return f"{self._prefix}checkpoint:{key}"

    def _both(self, claims: Iterable[Claim]) -> list[str]:
        return [
            name
            for claim in claims
            for name in (self._record(claim.key), self._checkpoint(claim.key))
        ]

    async def _ask(
        self,
        script: AsyncScript,
        claims: Sequence[Claim],
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
    ) -> Iterator[tuple[Claim, Standing]]:
        """Runs a script which answers with one letter per claim."""
        letters: bytes = await self._run(script, keys, arguments)
        return zip(claims, map(Standing, letters.decode()), strict=True)

    async def _run(
        self, script: AsyncScript, keys: Sequence[str], arguments: Sequence[str | int | bytes]
    ) -> Any:
        async def run() -> Any:
            try:
                return await script(keys=keys, args=arguments)
            except (OSError, exceptions.RedisError) as error:
                # The operator has to solve any error of Redis, whatever its kind.
                raise StoreUnavailable(f"the state store can't be used: {error}") from error

        return await self._turns.take(run)


def _shown(claims: Iterable[Claim]) -> list[str | int | bytes]:
    """Returns the claims as arguments for a script: generation and owner of each claim."""
    return [field for claim in claims for field in (claim.generation, claim.owner)]
