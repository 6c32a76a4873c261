"""How a running server is told to stop, to finish what was pushed and then at once; and to look at
its repository."""

import asyncio
import os
import signal
from collections.abc import Callable

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STDERR = 2


def heed_hangup(look: Callable[[], None]) -> None:
    """From now on SIGHUP calls `look`. Where it tells that the terminal was closed in which the
    server runs, it ends it as ever: there is nobody left to stop it, and nowhere to log to."""
    terminal = os.isatty(_STDERR)
    loop = asyncio.get_running_loop()

    def heed() -> None:
        if terminal and not os.isatty(_STDERR):
            loop.remove_signal_handler(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        look()

    loop.add_signal_handler(signal.SIGHUP, heed)


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
