"""Bounds that a process puts on itself before it runs what a stranger made.

It is no jail: such a process may still do what its user may.
"""

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_FIRST_TO_GO = "1000"


def die_with_parent(parent: int | None = None) -> None:
    """A parent that is killed can't end its child, which may never end by itself. `parent`: its
    id, where it may have been killed already."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def go_first() -> None:
    """Where the machine, or the container, runs out of memory, this process is the one that the
    system ends."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def limit_memory(nbytes: int) -> None:
    """Bounds the memory that is written to; that of threads' stacks and libraries is not counted
    before it is used, so that pools of threads can start. Where the system can't (macOS), nothing
    is bounded."""
    # A core of gigabytes would only fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = nbytes if hard == resource.RLIM_INFINITY else min(nbytes, hard)
    with contextlib.suppress(OSError, ValueError):  # not on this system
        resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
