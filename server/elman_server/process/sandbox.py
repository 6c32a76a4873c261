"""Limits for a process running untrusted code, set by the process.

The limits are no jail: the process keeps all rights of its user.
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
    """Kills the process when its parent dies. A killed parent can't end its child, and the child
    might run forever. `parent`: the parent's id, if the parent may already be dead."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def go_first() -> None:
    """Makes the process the system's first choice to kill when the machine or the container runs
    out of memory."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def limit_memory(nbytes: int) -> None:
    """Limits writable memory. Unused memory of thread stacks and libraries does not count, so
    thread pools can start. Without effect on systems without such a limit (macOS)."""
    # A core dump of gigabytes would only fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = nbytes if hard == resource.RLIM_INFINITY else min(nbytes, hard)
    with contextlib.suppress(OSError, ValueError):  # not supported by this system
        resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
