"""A process that was told to stop is gone in time, whatever it is at."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

GRACE, PATIENCE = 0.5, 0.5
MORE = 5.0
"""Seconds on a busy machine."""

BEGIN = f"""
import asyncio, ctypes, signal, socket, sys, threading, time
import uvloop
from elman_server.process.watchdog import Watchdog

async def main():
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    watchdog = Watchdog(grace={GRACE}, patience={PATIENCE})
    watchdog.watch()
    loop.add_signal_handler(signal.SIGHUP, heard.set)
    watchdog.watch()
    print("here", flush=True)
"""
END = """
    print("over", flush=True)

asyncio.Runner(loop_factory=LOOP).run(main())
"""
LOOPS = ["asyncio.new_event_loop", "uvloop.new_event_loop"]


@contextlib.contextmanager
def running(
    code: str, loop: str, descriptors: Sequence[int] = ()
) -> Iterator["subprocess.Popen[str]"]:
    """A process that said that it is there."""
    program = (BEGIN + code + END).replace("LOOP", loop)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=descriptors,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_event_loop_hears_its_signals_as_ever(loop: str, number: signal.Signals) -> None:
    with running("    await heard.wait()", loop) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=GRACE + MORE)
    assert (out, err, process.returncode) == ("over\n", "", 0)


FROZEN = {
    "in a call": "    time.sleep(60)",
    "in a thread that its executor waits for": "    await asyncio.to_thread(time.sleep, 60)",
    "in a thread that the interpreter waits for": (
        "    threading.Thread(target=time.sleep, args=[60]).start(); await heard.wait()"
    ),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("code", FROZEN.values(), ids=FROZEN)
def test_a_process_that_hangs_is_ended_and_says_where(code: str, loop: str) -> None:
    with running(code, loop) as process:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=GRACE + PATIENCE + MORE)
    assert time.monotonic() - begun >= GRACE
    assert process.returncode == 1
    assert "the stop is overdue, the process ends now" in out


def test_a_second_signal_does_not_wait_for_the_grace_period() -> None:
    code = "    watchdog._grace = 60; print('set', flush=True); time.sleep(60)"
    with running(code, LOOPS[0]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set\n"
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)  # two that come at once are one for the system
        process.communicate(timeout=PATIENCE + MORE)
    assert process.returncode == 1


def test_the_kernel_ends_a_process_that_gives_its_interpreter_to_nobody() -> None:
    code = """
    await heard.wait()
    ctypes.PyDLL(None).sleep(60)
"""
    with running(code, LOOPS[0]) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=GRACE + PATIENCE + MORE)
    assert process.returncode == -signal.SIGALRM


def test_one_whose_supervisor_is_gone_is_ended_however_it_hangs() -> None:
    ours, theirs = socket.socketpair()
    code = f"""
    peer = socket.socket(fileno={theirs.fileno()})
    other = Watchdog(grace={GRACE}, patience={PATIENCE}, peer=peer)
    other.watch()
    print("set", flush=True)
    time.sleep(60)
"""
    with ours, running(code, LOOPS[0], [theirs.fileno()]) as process:
        theirs.close()
        assert process.stdout is not None
        assert process.stdout.readline() == "set\n"
        ours.close()
        process.communicate(timeout=GRACE + PATIENCE + MORE)
    assert process.returncode == 1
