"""A server ends with its terminal, wherever its log goes, unless it was started to outlive it."""

import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.stepmodels import save_lstm
from tests.terminal import Terminal
from tests.waiting import until


@pytest.fixture
def serve(tmp_path: Path) -> str:
    """The command of a server with one version of a model, for a shell."""
    save_lstm(tmp_path / "models/letters/1/model.onnx")
    return shlex.join(
        [
            *(sys.executable, "-m", "elman_server", str(tmp_path / "models")),
            *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
        ]
    )


def add_version(folder: Path) -> None:
    save_lstm(folder / "models/letters/.2/model.onnx", seed=2)
    (folder / "models/letters/.2").rename(folder / "models/letters/2")


def server_in(processes: list[psutil.Process]) -> psutil.Process:
    return next(each for each in processes if "elman_server" in each.cmdline()[1:3])


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        ("{serve}; :", 1),
        ("{serve} 2>&1 | tee log", 1),
        ("{serve} --workers 2 2>&1 | cat", 2),
    ],
)
def test_a_terminal_that_is_closed_ends_its_server(
    command: str, workers: int, serve: str, tmp_path: Path
) -> None:
    """Nobody is left who could stop it."""
    script = f"cd {shlex.quote(str(tmp_path))}; {command.format(serve=serve)}"
    with Terminal(["sh", "-c", script]) as terminal:
        terminal.shows('"event": *"serving"')
        processes = terminal.processes
        # In an open terminal SIGHUP is a look at the repository.
        add_version(tmp_path)
        server_in(processes).send_signal(signal.SIGHUP)
        for _ in range(workers):
            terminal.shows('"model ready".*"version": *"2"|"version": *"2".*"model ready"')
        terminal.abandon()
        try:
            until(lambda: not any(map(alive, processes)))
        finally:
            for process in filter(alive, processes):
                process.kill()


def test_a_server_that_ignores_hangups_outlives_its_terminal(serve: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    script = f"trap '' HUP; {serve} 2>{shlex.quote(str(log))} & echo $!; wait"
    with Terminal(["sh", "-c", script]) as terminal:
        server = psutil.Process(int(terminal.shows(r"\d+").group()))
        try:
            until(lambda: '"serving"' in log.read_text())
            terminal.process.kill()
            terminal.process.wait()
            terminal.abandon()
            add_version(tmp_path)
            server.send_signal(signal.SIGHUP)
            until(lambda: log.read_text().count('"model ready"') == 2)
            assert alive(server)
        finally:
            server.kill()
