"""How a running server is told to stop: to finish what was pushed, and then at once."""

import asyncio
import signal

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
