"""Programs that load ONNX Runtime leave nothing in the user's home and ask no network for anything.

ONNX Runtime's own telemetry does both, as soon as it is imported.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.export.surgery.graphs import per_step
from tests.serverprocess import ServerProcess

ROOT = Path(__file__).parents[2]
SENTIMENT = ROOT / "server/elman_server/models/sentiment/1/model.onnx"
SWITCH = "ORT_DISABLE_TELEMETRY"
PROGRAM = "from elman.cli import main; main()"

EXPORT = ("-c", PROGRAM, "export", "noise.onnx", "--output", "models")
PROGRAMS = {
    "inspect": ("-c", PROGRAM, "inspect", str(SENTIMENT)),
    "export": EXPORT,
    "import of the export": ("-c", "import elman_export.exporter"),
    "benchmark": ("-c", "import benchmarks.limit, benchmarks.quantization"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a graph to export."""
    work = tmp_path / "work"
    work.mkdir()
    per_step("GRU").save(work / "noise.onnx")
    return work


def environment(home: Path, **more: str) -> dict[str, str]:
    """All variables but those that say where a user's files are, or what ONNX Runtime should do."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != SWITCH and not name.startswith("XDG_")
    }
    paths = [str(ROOT), *filter(None, sys.path)]
    return {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(paths), **more}


def python(*arguments: str, work: Path, env: Mapping[str, str], wrap: tuple[str, ...] = ()) -> str:
    """Runs a program in `work` to its end and returns what it wrote."""
    command = [*wrap, sys.executable, "-B", *arguments]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_writes_nothing_into_the_home(program: str, home: Path, work: Path) -> None:
    python(*PROGRAMS[program], work=work, env=environment(home))
    assert files(home) == set()
    assert files(work) <= {"noise.onnx", "models/noise/1/model.onnx"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_writes_nothing_into_the_home(
    workers: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH)
    variables = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "c"), "XDG_CONFIG_HOME": str(home)}
    with ServerProcess("--demo", "--workers", workers, env=variables) as server:
        assert server.terminate() == 0
        assert not [line for line in server.log if set(line) == {"event"}], "a line that is no JSON"
    assert files(home) == set()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_program_connects_to_nothing(program: str, home: Path, work: Path) -> None:
    calls = work.parent / "calls"
    tracer = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(calls))
    python(*PROGRAMS[program], work=work, env=environment(home), wrap=tracer)
    assert [line for line in calls.read_text().splitlines() if "AF_INET" in line] == []


def test_a_switch_that_the_user_has_set_stays(home: Path, work: Path) -> None:
    code = f"import os, elman_server.runner.ort; print(os.environ[{SWITCH!r}])"
    for chosen, found in (("0", "0"), ("yes", "yes"), ("", "1")):
        env = environment(home, **{SWITCH: chosen})
        assert python("-c", code, work=work, env=env).split() == [found]
