"""The Python of docs/client.md runs, on the server that the page names."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import elman
from elman import errors
from tests.chaos.fleet import Fleet
from tests.serverprocess import ServerProcess

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PROGRAMS = [block for block in BLOCKS if "elman.connect(" in block or "aio.connect(" in block]
FRAGMENTS = [block for block in BLOCKS if block not in PROGRAMS]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo", str(ROOT / "examples" / "captions" / "models")) as server:
        yield server


def output(program: str, server: ServerProcess) -> list[str]:
    program = program.replace("localhost:50051", server.target)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_the_page_has_a_program_for_threads_and_one_for_asyncio() -> None:
    assert ["asyncio" in program for program in PROGRAMS] == [False, True, False, False]
    assert FRAGMENTS


def test_its_program_for_threads_runs(server: ServerProcess) -> None:
    lines = output(PROGRAMS[0], server)
    assert [line.split()[0] for line in lines] == [
        *("captions", "sentiment", "shakespeare", "weather"),
        *("0", "1", "2", "3"),
        "refused:",
    ]


def test_its_program_for_asyncio_runs(server: ServerProcess) -> None:
    positive = dict(line.rsplit(" ", 1) for line in output(PROGRAMS[1], server))
    assert float(positive["good"]) > float(positive["bad"])


def test_its_program_that_outlives_a_server_runs() -> None:
    with Fleet(2, "--demo") as fleet:
        program = "import elman\n" + PROGRAMS[2]
        for name, target in zip(("50051", "50052"), fleet.targets, strict=True):
            program = program.replace(f"localhost:{name}", target)
        run = [sys.executable, "-W", "error", "-c", program]
        result = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


def test_its_program_with_a_name_runs(tmp_path: Path) -> None:
    with Fleet(1, "--demo", "--state-store", f"file:{tmp_path}") as fleet:
        assert output("import elman\n" + PROGRAMS[3], fleet[0]) == []


@pytest.mark.parametrize("code", FRAGMENTS)
def test_its_parts_run_in_a_client(code: str, server: ServerProcess) -> None:
    with elman.connect(server.target) as client:
        exec(compile(code, "docs/client.md", "exec"), {"client": client, "elman": elman})


def test_it_tells_of_every_error() -> None:
    told = re.findall(r"^\| `(\w+)`(?: \(.+?\))? \| ", PAGE, re.MULTILINE)
    known = [name for name in errors.__all__ if name != "ElmanError"]
    assert sorted(set(told) & set(errors.__all__)) == sorted(known)
