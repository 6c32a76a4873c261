"""What a store knows of a key, and by which rules it changes. Pure; times are arguments.

The rules of every store: those that run in Python use this module, and `scripts.py` says the same
in Redis' Lua. Times are whole milliseconds of the store's clock.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from elman_server.durable.store.interface import Claim, Renewal

REMEMBERED = 3_600_000
"""Milliseconds for which a record stays when neither a lease runs nor a checkpoint is kept, so that
whoever had the key before is still refused, and generations grow if the clock is put back."""


def milliseconds(seconds: float) -> int:
    """Rounded up, and at least one."""
    return max(1, math.ceil(seconds * 1000))


class Standing(StrEnum):
    """How a claim stands with the store. The letters are those of the scripts."""

    CURRENT = "c"
    WANTED = "w"
    FORGOTTEN = "f"
    LOST = "l"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A key that nobody ever claimed has the record of the defaults."""

    generation: int = 0
    owner: str | None = None
    """None: the last owner gave it up."""
    last: str | None = None
    """Who owns it or, if nobody does, who did last."""
    until: int = 0
    """When the lease ends."""
    wanted: bool = False
    """Whether another owner asked for the key while the lease ran."""
    kept: int = 0
    """Until when at most there is a checkpoint; or, if later, when the owner gave the key up."""

    def holds_off(self, owner: str, now: int) -> bool:
        """Whether a lease of somebody else runs."""
        return self.owner is not None and self.owner != owner and self.until > now

    def followed(self, owner: str) -> bool:
        """Whether somebody else has it or was the last to have it."""
        return self.last is not None and self.last != owner

    def standing(self, claim: Claim) -> Standing:
        """Of generations the highest counts; of the same one, whether its owner still has it."""
        if self.generation < claim.generation:
            return Standing.FORGOTTEN
        if self.generation > claim.generation or self.owner != claim.owner:
            return Standing.LOST
        return Standing.WANTED if self.wanted else Standing.CURRENT

    def claimed(self, owner: str, *, now: int, until: int) -> "Record":
        generation = max(self.generation + 1, now)
        return Record(generation=generation, owner=owner, last=owner, until=until, kept=self.kept)

    def recalled(self, claim: Claim) -> "Record":
        """With a claim that is not lost as the current one; without a lease if it was forgotten."""
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
        """With a checkpoint saved now. Takes some time more than that, so that a store which writes
        records to files does so once in a while and not at each save."""
        return self if self.kept >= now + ttl else replace(self, kept=now + 2 * ttl)

    def released(self, now: int) -> "Record":
        return Record(generation=self.generation, last=self.last, kept=max(self.kept, now))

    def dropped(self, now: int) -> "Record":
        return Record(generation=self.generation, last=self.last, kept=now)

    def outlived(self, now: int) -> bool:
        """Whether nobody needs to know it any more."""
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
