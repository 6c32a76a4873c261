"""CPU time that a thread spends on what it was asked to do, and not on the garbage collector."""

import gc
import time


class _Collecting:
    """Seconds that full collections took, on whichever thread; the others are short."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began


_collecting = _Collecting()
gc.callbacks.append(_collecting)


def cpu_seconds() -> float:
    """Of the thread that calls. A collection looks at all sessions that there are, and comes
    whenever enough objects were made: what runs then has no part in how long it takes."""
    return time.thread_time() - _collecting.seconds
