"""How a running server is told to stop, to finish what was pushed and then at once; and to look at
its repository."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Coroutine

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def heed_hangup(look: Callable[[], None]) -> None:
    """From now on SIGHUP calls `look`. If the server's terminal is gone, SIGHUP ends the server as
    it ends any program, wherever stderr goes; unless it was started to ignore it, as by `nohup`."""
    terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
    loop = asyncio.get_running_loop()

    def heed() -> None:
        if terminal and not _has_terminal():
            loop.remove_signal_handler(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        look()

    loop.add_signal_handler(signal.SIGHUP, heed)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal. The kernel takes it from all processes of a
    session when the terminal is closed or the session's leader, the shell, ends."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        # Too many open files tell nothing of the terminal.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


class Stopping:
    """Two events of the loop in which it is made; neither is ever taken back."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        """Finish what was pushed, within the grace period."""
        self.at_once = asyncio.Event()
        """Do not wait any longer."""

    def heed_signals(self, grace_period: float) -> None:
        """From now on the first SIGTERM or SIGINT drains and the second stops at once, and the log
        says so."""
        log = structlog.get_logger("elman.server")

        def heed(received: signal.Signals) -> None:
            if not self.drain.is_set():
                log.info("stopping", signal=received.name, grace_period=grace_period)
                self.drain.set()
            elif not self.at_once.is_set():
                log.warning("stopping at once", signal=received.name)
                self.at_once.set()

        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, heed, number)


class Stages:
    """The stages of a stop. None of them takes longer than it may."""

    def __init__(self) -> None:
        self.late: list[str] = []
        """Those that were left behind, and still run."""

    async def within(self, seconds: float, stage: str, work: Coroutine[None, None, object]) -> None:
        """Runs a stage to its end or, after `seconds`, cancels it and waits no longer, then or
        later. Raises what it raises."""
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
    """What comes of a stage that was left behind is of no use, and no bug."""
    if not task.cancelled():
        task.exception()
