"""The process's memory: how much it may have, and what was freed given back to the system."""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""Where control groups of version 2 are, and those of version 1 that bound memory."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUP_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Where a control group says what it may have: of version 2, and of version 1."""


def limit() -> int:
    """Bytes of memory that the machine has or, if that is less, that the process or one of its
    control groups may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        most, _ = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            limits.append(most)
    for group in _groups():
        for name in _GROUP_LIMITS:
            # A group without a limit says "max".
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / name).read_text()))
    return min(limits)


def _groups() -> set[Path]:
    """The control groups that the process is in."""
    groups = set(_GROUPS)
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            name = line.rpartition(":")[2].lstrip("/")
            for root in _GROUPS:
                own = root / name
                groups |= {own, *(each for each in own.parents if each.is_relative_to(root))}
    return groups


def give_back() -> None:
    """The C library keeps what is freed for whoever asks next. After a model is gone that is much:
    its weights, and what the runtime made of them. Only glibc is known to do what is asked here."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
