"""Delays between tries."""

import random
from collections.abc import Callable

_FIRST_SECONDS = 0.05
_MAX_SECONDS = 2.0


class Backoff:
    """Exponential backoff with full jitter: a random delay, with a bound doubled after each try.

    The jitter keeps many clients from reconnecting all at once.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def delay(self) -> float:
        """Returns the next delay, in seconds."""
        self._tries += 1
        return self.delay_after(self._tries)

    def delay_after(self, tries: int, limit: float = _MAX_SECONDS) -> float:
        """Returns the delay after `tries` tries counted elsewhere, in seconds."""
        return self._uniform(0, min(limit, _FIRST_SECONDS * 2 ** min(tries - 1, 30)))

    def spread(self, seconds: float, tries: int) -> float:
        """Returns `seconds` plus a random share, to spread clients with an equal instruction."""
        return seconds + self._uniform(0, seconds * 2 ** min(tries - 1, 3))
