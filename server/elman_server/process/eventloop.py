"""The serving event loop: uvloop where it is installed, and a short switch interval."""

import asyncio
import sys
from collections.abc import Callable

_SWITCH_INTERVAL = 0.5e-3
"""Seconds. While the event loop is busy, a step's thread returning from ONNX Runtime waits at most
this long for the interpreter lock. Python's default, 5 ms, is as long as many steps."""


def runner() -> asyncio.Runner:
    """Returns a runner of the serving event loop, for the main thread."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    return asyncio.Runner(loop_factory=_loop_factory())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # uvloop does not support Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop
