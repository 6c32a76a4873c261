"""The clocks of a server. Tests put others in their place."""

import time
from collections.abc import Callable
from dataclasses import dataclass

if hasattr(time, "CLOCK_BOOTTIME"):

    def since_boot() -> float:
        """Returns the seconds of a clock which also counts while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    since_boot = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Functions that return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    """For limits and time-outs; stands still while the machine sleeps."""
    since_boot: Callable[[], float] = since_boot
    """For leases, which also end while the machine sleeps."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970, for the lifetime of tickets."""
