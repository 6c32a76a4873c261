"""What a server holds, read from outside."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic, sleep

import psutil

from tests.serverprocess import ServerProcess
from tests.waiting import until

MIB = 1024 * 1024
_PATIENCE_SECONDS = 45.0
"""For what goes by itself after its client: gRPC keeps threads and buffers for a while."""
_SPARE_THREADS = 8
"""Threads that gRPC's pools keep or not, as they like."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Of one moment."""

    sessions: int
    pending_elements: int
    state_slots: int
    fds: int
    threads: int
    processes: int
    """Children that live."""

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {getattr(self, each.name)}" for each in fields(self))


def at_rest(server: ServerProcess) -> Readings:
    """Waits until nobody has a session any more."""
    until(lambda: server.metric("elman_sessions") == 0)
    return take(server)


def take(server: ServerProcess) -> Readings:
    process = psutil.Process(server.process.pid)
    return Readings(
        sessions=int(server.metric("elman_sessions")),
        pending_elements=int(server.metric("elman_pending_elements")),
        state_slots=int(server.metric("elman_state_slots")),
        fds=process.num_fds(),
        threads=process.num_threads(),
        processes=len(process.children()),
    )


def check_nothing_left(server: ServerProcess, before: Readings, *logged: str) -> None:
    """That in some seconds all is as it was, and that nothing went wrong inside on the way, but for
    what is logged as these events."""
    end = monotonic() + _PATIENCE_SECONDS
    while not _within(after := take(server), before):
        assert monotonic() < end, f"before: {before}; after: {after}"
        sleep(_POLL_SECONDS)
    check_log(server, *logged)


def check_log(server: ServerProcess, *logged: str) -> None:
    """That no line of the log is an error or a traceback, but for these events."""
    bad = [line for line in server.log if _is_bad(line) and line.get("event") not in logged]
    assert not bad, bad[:3]


def _is_bad(line: dict[str, object]) -> bool:
    # What is not JSON comes from below: gRPC's own lines, or a traceback that nobody caught.
    return (
        line.get("level") in ("error", "critical")
        or "exception" in line
        or str(line.get("event", "")).startswith(("Traceback", "Fatal", "Exception"))
    )


def _within(after: Readings, before: Readings) -> bool:
    return (
        after.sessions == before.sessions
        and after.pending_elements == before.pending_elements
        and after.state_slots == before.state_slots
        and after.fds <= before.fds
        and after.threads <= before.threads + _SPARE_THREADS
        and after.processes <= before.processes
    )


class Peak:
    """The most memory that a server has in RAM from now on."""

    def __init__(self, server: ServerProcess) -> None:
        self._folder = Path(f"/proc/{server.process.pid}")
        # Sets the kernel's high-water mark back (proc(5), clear_refs).
        (self._folder / "clear_refs").write_text("5")
        self._begun = self._bytes("VmRSS")

    @property
    def most(self) -> float:
        """MiB."""
        return self._bytes("VmHWM") / MIB

    @property
    def grown(self) -> float:
        """MiB above what it had."""
        return (self._bytes("VmHWM") - self._begun) / MIB

    def _bytes(self, field: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field}")


def cpu_seconds(server: ServerProcess) -> float:
    """Of the server's process, since it began."""
    fields_ = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields_[11]) + int(fields_[12])) / os.sysconf("SC_CLK_TCK")
