"""The record of a key in a state store, and the rules for its changes. Pure; times are arguments.

The rules are the same for every store. Stores in Python use this module. `scripts.py` implements
the rules in Redis' Lua. Times are whole milliseconds of the store's clock.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from elman_server.durable.store.interface import Claim, Renewal

REMEMBERED = 3_600_000
"""Milliseconds for which a record stays after its lease and its checkpoint have ended. Until then,
the store still refuses earlier owners, and generations grow even if the clock is set back."""


def milliseconds(seconds: float) -> int:
    """Converts seconds, rounding up, to at least 1 millisecond."""
    return max(1, math.ceil(seconds * 1000))


class Standing(StrEnum):
    """A claim's standing with the store. The values are the letters in the scripts' answers."""

    CURRENT = "c"
    WANTED = "w"
    FORGOTTEN = "f"
    LOST = "l"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The store's knowledge of a key. The default values describe a key without any claim."""

    generation: int = 0
    owner: str | None = None
    """The current owner; None after a release."""
    last: str | None = None
    """The current owner or, after a release, the last owner."""
    until: int = 0
    """The end of the lease."""
    wanted: bool = False
    """Whether another owner asked for the key during the lease."""
    kept: int = 0
    """The latest expiry of the checkpoint, or the time of the release, whichever is later."""

    def holds_off(self, owner: str, now: int) -> bool:
        """Whether another owner's lease runs."""
        return self.owner is not None and self.owner != owner and self.until > now

    def followed(self, owner: str) -> bool:
        """Whether another owner has the key, or was the last owner."""
        return self.last is not None and self.last != owner

    def standing(self, claim: Claim) -> Standing:
        """Returns the standing of a claim. The highest generation wins; within a generation, the
        claim must belong to the current owner."""
        if self.generation < claim.generation:
            return Standing.FORGOTTEN
        if self.generation > claim.generation or self.owner != claim.owner:
            return Standing.LOST
        return Standing.WANTED if self.wanted else Standing.CURRENT

    def claimed(self, owner: str, *, now: int, until: int) -> "Record":
        generation = max(self.generation + 1, now)
        return Record(generation=generation, owner=owner, last=owner, until=until, kept=self.kept)

    def recalled(self, claim: Claim) -> "Record":
        """Returns the record with `claim` as the current claim. A forgotten claim is restored
        without a lease. The claim must not be lost."""
        if self.standing(claim) is not Standing.FORGOTTEN:
            return self
        return Record(
            generation=claim.generation, owner=claim.owner, last=claim.owner, kept=self.kept
        )

    def renewed(self, until: int) -> "Record":
        return replace(self, until=until)

    def marked(self) -> "Record":
        return replace(self, wanted=True)

    def keeping(self, ttl: int, now: int) -> "Record":
        """Returns the record after a save at `now`. `kept` moves by twice the `ttl`, so a file
        store rewrites the record only occasionally and not at each save."""
        return self if self.kept >= now + ttl else replace(self, kept=now + 2 * ttl)

    def released(self, now: int) -> "Record":
        return Record(generation=self.generation, last=self.last, kept=max(self.kept, now))

    def outlived(self, now: int) -> bool:
        """Whether the record may be deleted."""
        return now > max(self.until, self.kept) + REMEMBERED


def renewal(answers: Iterable[tuple[Claim, Standing]]) -> Renewal:
    sorted_out: dict[Standing, set[Claim]] = {standing: set() for standing in Standing}
    for claim, standing in answers:
        sorted_out[standing].add(claim)
    return Renewal(
        lost=frozenset(sorted_out[Standing.LOST]),
        wanted=frozenset(sorted_out[Standing.WANTED]),
        forgotten=frozenset(sorted_out[Standing.FORGOTTEN]),
    )


def refused(answers: Iterable[tuple[Claim, Standing]]) -> frozenset[Claim]:
    return frozenset(claim for claim, standing in answers if standing is Standing.LOST)
