"""What the figures were measured on, and which core does what."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

PACKAGES = ("elman", "grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")


def machine() -> dict[str, str]:
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """What starts inside, threads and processes, stays on one core. With fewer cores than that,
    nothing is pinned."""
    allowed = os.sched_getaffinity(0)
    chosen = sorted(allowed)[number : number + 1]
    if len(allowed) > 1 and chosen:
        os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
