"""The watchdog of a stop: ends the process in time, whatever hangs."""

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
"""Seconds after the grace period until the watchdog ends a stopping process."""
_KERNEL_SECONDS = 0.5
"""Seconds for the watchdog's own thread to end the process, before the kernel does."""
_EXIT_CODE = 1
_NO_SIGNAL = b"\0"
_RETRY_SECONDS = 0.01


class Watchdog:
    """A thread which receives stop signals in parallel to the event loop, and ends the process when
    the stop is overdue. The watchdog also works if a step blocks the loop, if threads never return,
    or if memory is exhausted.

    Python's C-level handler writes each signal to the descriptor of `signal.set_wakeup_fd`, without
    the interpreter lock. The watchdog reads the signal there and forwards it to the event loop. A
    kernel timer also starts with the first signal (SIGALRM with its default action: the process
    ends). The timer covers cases beyond any thread's power: the interpreter lock is never released,
    or the interpreter is finalizing.
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
        """`grace`: the grace period in seconds. `patience`: seconds after the grace period.
        `heard`: stop signals; the second signal ends the grace period. `peer`: an optional socket;
        the end of its connection also stops the server. `last`: called before the process is
        ended."""
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
            self._poll.register(self._peer, 0)  # no events except the end of the connection
        self._thread = threading.Thread(target=self._run, name="elman-watchdog", daemon=True)

    def watch(self) -> None:
        """Starts the watchdog. Must be called on the main thread, and again after each
        `loop.add_signal_handler`, because the loop may take over the signals."""
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if before not in (-1, self._write):
            # A duplicate, because the number may belong to a different file after the loop closes
            # its own.
            self._loop_descriptor = os.dup(before)
        if not self._thread.is_alive():
            self._thread.start()

    def end_within(self, seconds: float) -> None:
        """Sets a deadline for the end of the process. An earlier deadline stays."""
        end = time.monotonic() + seconds
        if self._end is None or end < self._end:
            self._end = end
            signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds) + _KERNEL_SECONDS)
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, _NO_SIGNAL)

    def stop_within(self) -> None:
        """Starts the deadline of a stop without a signal."""
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
    """Ends the process without waiting for its threads. The interpreter's own exit would wait."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(code)


def _running() -> list[str]:
    """Returns the name and current position of each other thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    return [
        f"{names.get(ident, ident)}: {frame.f_code.co_qualname} "
        f"({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
        for ident, frame in sys._current_frames().items()
        if ident != own
    ]
