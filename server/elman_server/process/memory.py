"""The process's memory limit, and the return of freed memory to the system."""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""Root folders of control groups of version 2, and of the memory controller of version 1."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUP_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files with a control group's memory limit: version 2, version 1."""


def limit() -> int:
    """Returns the memory limit in bytes: the smallest of the machine's memory, the process's limits
    and the limits of the process's control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        most, _ = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            limits.append(most)
    for group in _groups():
        for name in _GROUP_LIMITS:
            # The limit of an unlimited group is the word "max".
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / name).read_text()))
    return min(limits)


def _groups() -> set[Path]:
    """Returns the process's control groups and their parents."""
    groups = set(_GROUPS)
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            name = line.rpartition(":")[2].lstrip("/")
            for root in _GROUPS:
                own = root / name
                groups |= {own, *(each for each in own.parents if each.is_relative_to(root))}
    return groups


def give_back() -> None:
    """Returns freed memory to the system. The C library otherwise keeps freed memory for later
    allocations. After a model is unloaded, the amount is large: the weights, and the runtime's data
    made from them. Works with glibc only; does nothing elsewhere."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
