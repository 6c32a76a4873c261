"""CPU time of a thread, without garbage collection."""

import gc
import time


class _Collecting:
    """Seconds spent in full collections, on all threads. Other collections are short."""

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
    """Returns the CPU seconds of the calling thread, without full collections. A collection scans
    all sessions and starts after a certain number of allocations, on any thread. Its duration does
    not depend on the work of this thread."""
    return time.thread_time() - _collecting.seconds
