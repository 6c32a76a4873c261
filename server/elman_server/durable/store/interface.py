"""The state store's interface, for servers sharing one store.

A key belongs to the owner with the latest claim, until the claim's lease ends. Every claim has a
generation. A later claim has a higher generation, and the highest generation known to the store is
the current one. The store refuses requests under an earlier claim, whatever the owner of the
earlier claim believes. So after an absence longer than the lease, an owner can't overwrite the
work of a successor.

A store may lose its data. Generations grow even then, because no generation is below the
milliseconds of the store's clock. The store records a forgotten claim again at the claim's next
renewal or save, unless the store knows a later claim. Before that renewal, another owner can claim
the key, and the renewal then reports the loss to the first owner. Therefore a store without any
data refuses every claim for the length of a lease. In that time, the previous owners can renew
their claims.

This module does not depend on any particular store.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol


class StoreUnavailable(Exception):
    """The store can't be reached, did not answer in time, or can't serve at the moment.

    The request may still have taken effect, wholly or in part. Every request can be repeated.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An owner's claim of a key. Renewing, saving and releasing need the claim."""

    key: str
    owner: str
    generation: int
    checkpoint: bytes | None = field(default=None, compare=False, repr=False)
    """The last saved checkpoint, if the store still has it. Meaningful in a new claim only."""

    def emptied(self) -> "Claim":
        """Returns a copy without the checkpoint's bytes, for keeping in memory."""
        return replace(self, checkpoint=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The refusal of a claim: another owner has the key, or may have the key. Unless `again` was
    given, the store has marked a known key as wanted."""

    generation: int
    """0 if the store does not know the key, and therefore refuses all claims of the key for now."""
    remaining: float
    """Seconds until the current lease ends without a renewal; 0 after the lease's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The result of renewing claims. Every claim except the `lost` ones has a new lease."""

    lost: frozenset[Claim] = frozenset()
    """Outdated claims: a later claim followed, or the key was released."""
    wanted: frozenset[Claim] = frozenset()
    """Claims whose key another owner has asked for since the claim. Every renewal repeats the
    report."""
    forgotten: frozenset[Claim] = frozenset()
    """Claims which the store had lost and has recorded again. Their checkpoints may be lost."""


class StateStore(Protocol):
    """A store of leases and checkpoints.

    Every method except `close` may raise `StoreUnavailable`. A long call goes out in batches; an
    error comes after a few seconds per batch at most.
    """

    @property
    def timeout(self) -> float:
        """The time limit of a batch, in seconds during which this process runs."""
        ...

    async def claim(
        self, key: str, *, owner: str, lease_seconds: float, again: bool = False
    ) -> Claim | Held:
        """Claims the key for `lease_seconds`, unless another owner's lease runs.

        With `again`, the store instead refuses if another owner has had the key since `owner` had
        it, even after the end of the other owner's lease. Such a refusal does not mark the key as
        wanted.

        An owner may claim its own key. The owner then gets a new claim, and the old claim is no
        longer current. So a claim can be repeated after its answer was lost.
        """
        ...

    async def peek(self, key: str) -> bytes | None:
        """Returns the checkpoint of a key, whoever owns the key."""
        ...

    async def renew(self, claims: Collection[Claim], *, lease_seconds: float) -> Renewal:
        """Extends the leases to `lease_seconds` from now. An expired lease is extended too, unless
        another owner has claimed the key since."""
        ...

    async def save(self, checkpoints: Mapping[Claim, bytes], *, ttl: float) -> frozenset[Claim]:
        """Stores each checkpoint for `ttl` seconds, in place of the key's previous checkpoint.

        A save neither requires a running lease nor extends the lease. Returns the outdated
        claims; the store has refused their checkpoints.
        """
        ...

    async def release(self, *claims: Claim) -> frozenset[Claim]:
        """Gives keys up and keeps their checkpoints. Returns the outdated claims; their keys stay
        unchanged."""
        ...

    async def close(self) -> None:
        """Closes connections and ends threads. Claims and checkpoints stay in the store."""
        ...
