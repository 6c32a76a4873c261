"""gRPC's settings that only the environment takes, and only before grpc is imported."""

import os
from importlib.metadata import version

VARIABLE = "GRPC_EXPERIMENTS"
POLL_THEMSELVES = "-event_engine_listener"
"""Has a server's connections polled by the thread that waits for their messages, and not by a pool
of threads that wakes it: more messages a second (`python -m benchmarks.pollers`)."""
_LAST_TRIED = (1, 85)
"""The newest grpcio of which it is known that it knows the name: one that does not writes a line
about it to stderr at every start."""


def apply() -> None:
    """Chooses for this process, unless its environment has chosen already."""
    if known(version("grpcio")):
        os.environ.setdefault(VARIABLE, POLL_THEMSELVES)


def known(grpcio: str) -> bool:
    """Whether that version knows the name."""
    major, minor = grpcio.split(".")[:2]
    return (int(major), int(minor)) <= _LAST_TRIED
