"""A model file that is made to do harm does it to nothing but its own load, at the start and later,
and no stop waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import elman
from tests.serverprocess import ServerProcess
from tests.stepmodels import FOREVER, leaky, save, spinning
from tests.waiting import until

GRACE = 1.0
STOP_SECONDS = GRACE + 5
HANGING = ("--load-timeout", "1000", "--grace-period", str(GRACE))


def put_no_models(root: Path, name: str) -> None:
    """Versions 11 to 14 are no ordinary files, or too large."""
    for version in (11, 12, 13, 14):
        (root / f"{name}/{version}").mkdir(parents=True)
    os.mkfifo(root / f"{name}/11/model.onnx")
    (root / f"{name}/12/model.onnx").symlink_to("/dev/zero")
    with open(root / f"{name}/13/model.onnx", "wb") as file:
        file.truncate(20 * 2**30)
    (root / f"{name}/14/model.onnx").symlink_to("/proc/self/mem")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, found) for each in (child, *children(child))]


def ends(process: "subprocess.Popen[str]") -> None:
    """Within its grace and a few seconds, with all that it started."""
    began, started = time.monotonic(), children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < STOP_SECONDS
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in started))


def test_a_running_server_goes_on_whatever_versions_come(tmp_path: Path) -> None:
    save(*leaky(), tmp_path / "leaky/1/model.onnx")
    with ServerProcess(str(tmp_path), *HANGING) as server, elman.connect(server.target) as client:
        put_no_models(tmp_path, "odd")
        save(*spinning(FOREVER), tmp_path / "leaky/2/model.onnx")
        server.process.send_signal(signal.SIGHUP)
        for version in ("11", "12", "13", "14"):
            server.heard("model not loaded", model="odd", version=version)
        save(*leaky(), tmp_path / "leaky/3/model.onnx")
        server.process.send_signal(signal.SIGHUP)
        server.heard("model ready", model="leaky", version="3")
        with client.stream("leaky", version=3) as stream:
            assert stream.step([1.0])["y"].tolist() == [1.0]
        assert children(server.process.pid)
        ends(server.process)


def test_a_server_that_starts_serves_those_that_load_and_can_be_stopped(tmp_path: Path) -> None:
    save(*leaky(), tmp_path / "leaky/1/model.onnx")
    save(*spinning(FOREVER), tmp_path / "leaky/2/model.onnx")
    put_no_models(tmp_path, "odd")
    command = [sys.executable, "-m", "elman_server", str(tmp_path), *HANGING]
    command += ["--port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            wanted = {"model ready": 1, "model not loaded": 4}
            for line in process.stderr:
                for event in wanted:
                    wanted[event] -= f'"event": "{event}"' in line
                if not any(wanted.values()):
                    break
            assert process.poll() is None
            ends(process)
        finally:
            process.kill()


def test_what_a_killed_server_was_loading_is_gone_with_it(tmp_path: Path) -> None:
    save(*leaky(), tmp_path / "leaky/1/model.onnx")
    with ServerProcess(str(tmp_path), *HANGING) as server:
        save(*spinning(FOREVER), tmp_path / "leaky/2/model.onnx")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(children(server.process.pid)) == 2)
        started = children(server.process.pid)
        server.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in started))
