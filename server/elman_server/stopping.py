"""Signals to a running server: drain, stop at once, and rescan the repository."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Coroutine

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def handle_hangup(rescan: Callable[[], None]) -> None:
    """Installs a SIGHUP handler which calls `rescan`. After the loss of the server's terminal,
    SIGHUP instead ends the server, like any program, wherever stderr goes. A server started
    with SIGHUP ignored, as by `nohup`, never ends on SIGHUP."""
    terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if terminal and not _has_terminal():
            loop.remove_signal_handler(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        rescan()

    loop.add_signal_handler(signal.SIGHUP, handle)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal. The kernel removes the terminal from all
    processes of a session when the terminal is closed or the session's leader, the shell, ends."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        # With too many open files, nothing is known about the terminal.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


class Stopping:
    """Two events of a stop, for the running event loop. The events are never cleared."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        """Set when the server has to answer the pushed elements within the grace period, and
        stop."""
        self.at_once = asyncio.Event()
        """Set when the server must not wait any longer."""

    def handle_signals(self, grace_period: float) -> None:
        """Installs handlers for SIGTERM and SIGINT. The first signal drains, the second stops at
        once. The log reports both."""
        log = structlog.get_logger("elman.server")

        def handle(received: signal.Signals) -> None:
            if not self.drain.is_set():
                log.info("stopping", signal=received.name, grace_period=grace_period)
                self.drain.set()
            elif not self.at_once.is_set():
                log.warning("stopping at once", signal=received.name)
                self.at_once.set()

        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, handle, number)


class Stages:
    """The stages of a stop, each with a time limit."""

    def __init__(self) -> None:
        self.late: list[str] = []
        """Names of stages which exceeded their time and still run."""

    async def within(self, seconds: float, stage: str, work: Coroutine[None, None, object]) -> None:
        """Runs a stage. After `seconds`, cancels the stage and never waits for it again. Raises the
        stage's exceptions."""
        if stage in self.late:
            work.close()
            return
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            task.result()
            return
        self.late.append(stage)
        structlog.get_logger("elman.server").warning(
            "a stage of the stop took too long and is left behind", stage=stage, seconds=seconds
        )
        task.add_done_callback(_seen)
        task.cancel()


def _seen(task: "asyncio.Task[object]") -> None:
    """Discards the result of a late stage. Its exception is not a bug."""
    if not task.cancelled():
        task.exception()
