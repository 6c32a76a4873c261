"""Durations of named sessions."""

from dataclasses import dataclass

_RENEWALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Durations in seconds."""

    lease_seconds: float
    ttl: float
    """How long the store keeps an unused session."""
    interval: float
    """Time between two checkpoints of a session."""

    @property
    def renewal_seconds(self) -> float:
        """Time between two renewals: a third of a lease."""
        return self.lease_seconds / _RENEWALS

    @property
    def patience(self) -> float:
        """How long to wait for another owner's session. The owner may have died, or may still have
        to answer pushed elements."""
        return 2 * self.lease_seconds + 5
