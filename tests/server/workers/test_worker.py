"""What the supervisor's own process is like while and after it starts workers."""

import asyncio
import signal
import sys

import pytest

from elman_server.config import ServerConfig
from elman_server.stopping import SIGNALS
from elman_server.workers.worker import Ended, Worker

HEEDED = {*SIGNALS, signal.SIGHUP}


def blocked() -> set[signal.Signals]:
    """Of the signals that a supervisor heeds, those that this thread does not hear."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return {signal.Signals(number) for number in mask} & HEEDED


async def attended(worker: Worker) -> Ended:
    return await worker.attend(
        loaded=lambda: None,
        changed=lambda: None,
        serving=lambda: None,
        samples=lambda told: None,
    )


async def test_starts_that_overlap_leave_the_signals_as_they_were() -> None:
    assert blocked() == set()
    config = ServerConfig(demo=True)
    found = []

    async def watch() -> None:
        """What any other task hears meanwhile."""
        while True:
            found.append(blocked())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    workers = await asyncio.gather(*(Worker.start(number, config) for number in range(3)))
    watching.cancel()
    try:
        assert blocked() == set()
        assert found
        assert set().union(*found) == set()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)
        for worker in workers:
            worker.kill()
        for worker in workers:
            ended = await attended(worker)
            assert ended.how == "killed by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
async def test_a_worker_is_born_with_the_signals_blocked() -> None:
    """Or one that comes before it is ready for them would kill it."""
    worker = await Worker.start(1, ServerConfig(demo=True))
    try:
        with open(f"/proc/{worker.pid}/status") as lines:
            (mask,) = [line.split()[1] for line in lines if line.startswith("SigBlk:")]
        assert all(int(mask, 16) >> number - 1 & 1 for number in HEEDED)
    finally:
        worker.kill()
        await attended(worker)
