"""Clocks that are wrong: libfaketime, for the time of day alone."""

from tests import needs


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a program whose clock is so far ahead, or behind if negative."""
    library = needs.library("*/faketime/libfaketime.so.1", "faketime", "faketime")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+.0f}s",
        # What measures how long something takes is right on any machine.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
