"""Waiting, in a test without an event loop, for what another process does by itself."""

import time
from collections.abc import Callable

_PAUSE = 0.01


def until(holds: Callable[[], bool], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(_PAUSE)
