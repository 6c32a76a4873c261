"""What a state store does for the servers that share it.

A key is owned by whoever claimed it last, for as long as its lease runs. Every claim has a
generation, later ones a higher one, and the highest that the store has heard of is the current one:
what an earlier claim asks for is refused, whatever its owner believes. So an owner that was away
for longer than its lease can't write over the work of the one that came after it.

A store may lose its data. Generations grow even then, because none is below the milliseconds of
the store's clock; and a claim that the store has forgotten is taken down again at its next renewal
or save, as long as nothing later is known. Until then another owner can claim the key, and the
first learns of it then. So a store that finds itself without any data lets nobody have a key for
the length of a lease, in which those that had keys can renew them.

This module knows no store in particular.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol


class StoreUnavailable(Exception):
    """The store can't be reached, did not answer in time, or can't serve for the time being.

    What was asked for may have been done all the same, or in part. All of it can be asked again.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That an owner has a key: what it shows to renew, save, release or drop."""

    key: str
    owner: str
    generation: int
    checkpoint: bytes | None = field(default=None, compare=False, repr=False)
    """What was saved last, if it is still kept. Of no account in anything but a new claim."""

    def emptied(self) -> "Claim":
        """The same claim without the checkpoint's bytes, to hold on to."""
        return replace(self, checkpoint=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """That another owner has the key, or may have it. It has been told that the key is wanted."""

    generation: int
    """0 if nothing is known of the key, and for the time being is of no other."""
    remaining: float
    """Seconds for which its lease still runs, if it is not renewed; 0 if it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What was found out when claims were renewed; all but `lost` run for another lease."""

    lost: frozenset[Claim] = frozenset()
    """Not current any more: claimed by another since, released or dropped."""
    wanted: frozenset[Claim] = frozenset()
    """Somebody else asked for the key since it was claimed. Told at each renewal."""
    forgotten: frozenset[Claim] = frozenset()
    """The store had lost them and took them down again. It may have lost their checkpoints."""


class StateStore(Protocol):
    """Every method but `close` raises `StoreUnavailable`, after few seconds at most for each of
    the batches that a long call goes out in."""

    @property
    def timeout(self) -> float:
        """How many, in seconds in which this process runs."""
        ...

    async def claim(
        self, key: str, *, owner: str, lease_seconds: float, again: bool = False
    ) -> Claim | Held:
        """Takes the key for `lease_seconds`, unless another owner's lease runs; or, `again`, if
        another had the key since, whose lease may be over: then nobody is told that it is wanted.

        An owner that claims what it has itself gets a new claim, and its old one is not current
        any more; so a claim whose answer was lost can be made again.
        """
        ...

    async def peek(self, key: str) -> bytes | None:
        """The checkpoint of a key, whoever has it."""
        ...

    async def renew(self, claims: Collection[Claim], *, lease_seconds: float) -> Renewal:
        """Has the leases run for `lease_seconds` from now, those that have run out too if nobody
        has claimed the key since."""
        ...

    async def save(self, checkpoints: Mapping[Claim, bytes], *, ttl: float) -> frozenset[Claim]:
        """Keeps each checkpoint, in place of the last one of its key, for `ttl` seconds.

        A lease is neither asked for nor prolonged. Returns the claims whose checkpoints were
        refused because they are not current any more.
        """
        ...

    async def release(self, *claims: Claim) -> frozenset[Claim]:
        """Gives keys up and keeps their checkpoints. Returns the claims that were not current any
        more, for which nothing was done."""
        ...

    async def drop(self, *claims: Claim) -> frozenset[Claim]:
        """Gives keys up and deletes their checkpoints. Returns the claims that were not current
        any more, for which nothing was done."""
        ...

    async def close(self) -> None:
        """Ends connections and threads; claims and checkpoints stay."""
        ...
