"""The watchdog of a stop: the process is gone in time, whatever hangs."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import NoReturn

import structlog

from elman_server.stopping import SIGNALS

PATIENCE = 3.75
"""Seconds beyond the grace period after which a process that was told to stop ends anyhow."""
_KERNEL_SECONDS = 0.5
"""What the watchdog's own thread gets to end the process, before the kernel does."""
_EXIT_CODE = 1
_NO_SIGNAL = b"\0"
_RETRY_SECONDS = 0.01


class Watchdog:
    """A thread that hears the signals that stop the server beside the event loop, and ends the
    process when the stop is overdue: with the loop frozen in a step, with threads that never
    return, without memory.

    Python's C-level handler writes each signal to the descriptor of `signal.set_wakeup_fd`, which
    needs no free interpreter. The watchdog reads it there and passes it on to the event loop. From
    the first signal on a timer of the kernel runs, too (SIGALRM, at its default: the process ends),
    for what even a thread can't do, as when the interpreter is not given back or is finalized.
    """

    def __init__(
        self,
        *,
        grace: float,
        patience: float = PATIENCE,
        heard: Collection[int] = SIGNALS,
        peer: socket.socket | None = None,
        last: Callable[[], None] = lambda: None,
    ) -> None:
        """`grace`: the grace period in seconds. `patience`: seconds beyond it. `heard`: signals
        that stop the server, a second one at once. `peer`: whose end, if any, stops it as well.
        `last`: called before the process is ended."""
        self._grace = grace
        self._patience = patience
        self._heard = frozenset(heard)
        self._last = last
        self._signals = 0
        self._end: float | None = None
        self._loop_descriptor = -1
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._peer = -1 if peer is None else os.dup(peer.fileno())
        if peer is not None:
            self._poll.register(self._peer, 0)  # nothing but its end
        self._thread = threading.Thread(target=self._run, name="elman-watchdog", daemon=True)

    def watch(self) -> None:
        """Starts, on the main thread. To be called again after each `loop.add_signal_handler`, as
        that may take the signals away."""
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if before not in (-1, self._write):
            # A duplicate: a number that the loop closes may soon be another file's.
            self._loop_descriptor = os.dup(before)
        if not self._thread.is_alive():
            self._thread.start()

    def end_within(self, seconds: float) -> None:
        """The process is to be gone by then; what was said before stands if that is earlier."""
        end = time.monotonic() + seconds
        if self._end is None or end < self._end:
            self._end = end
            signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds) + _KERNEL_SECONDS)
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, _NO_SIGNAL)

    def stop_within(self) -> None:
        """A stop begins that no signal told of."""
        self.end_within(self._grace + self._patience)

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except MemoryError:
                time.sleep(_RETRY_SECONDS)

    def _turn(self) -> None:
        wait = None if self._end is None else max(0.0, self._end - time.monotonic()) * 1000 + 1
        ready = self._poll.poll(wait)
        if self._end is not None and time.monotonic() >= self._end:
            self._bite()
        for descriptor, _ in ready:
            if descriptor == self._read:
                self._hear(os.read(self._read, 512))
            else:
                self._poll.unregister(descriptor)
                self.stop_within()

    def _hear(self, numbers: bytes) -> None:
        for number in numbers:
            if number in self._heard:
                self._signals += 1
                self.end_within(self._patience + (self._grace if self._signals == 1 else 0.0))
        told = numbers.replace(_NO_SIGNAL, b"")
        if told and self._loop_descriptor != -1:
            with contextlib.suppress(OSError):  # closed, or full of signals
                os.write(self._loop_descriptor, told)

    def _bite(self) -> NoReturn:
        try:
            self._last()
            structlog.get_logger("elman.server").error(
                "the stop is overdue, the process ends now", running=_running()
            )
        finally:
            leave(_EXIT_CODE)


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for its threads, as the interpreter's own exit would."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(code)


def _running() -> list[str]:
    """What each thread is at."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    return [
        f"{names.get(ident, ident)}: {frame.f_code.co_qualname} "
        f"({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
        for ident, frame in sys._current_frames().items()
        if ident != own
    ]
