"""Commands that take long show on a terminal how far they are, and keep their output clean."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.export.surgery.graphs import per_step
from tests.serverprocess import ServerProcess
from tests.terminal import Terminal

PROGRAM = str(Path(sys.executable).with_name("elman"))


def shell(script: str, server: ServerProcess) -> Terminal:
    return Terminal(["sh", "-c", f"{script}; echo over"], {"ELMAN_TARGET": server.target}, 100)


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_long_prediction_counts_its_elements(
    source: str, demo_server: ServerProcess, tmp_path: Path
) -> None:
    text = "to be or not to be " * 4000
    (tmp_path / "text").write_text(text)
    stream = f"{PROGRAM} stream shakespeare --json > out"
    script = f"{stream} < text" if source == "file" else f"cat text | {stream}"
    with shell(f"cd {shlex.quote(str(tmp_path))}; {script}", demo_server) as terminal:
        shown = terminal.shows(r"([\d,]+) elements, [\d,]+/s[^\r\n]*").group()
        assert ("%" in shown) is (source == "file")
        terminal.shows("over")
    lines = (tmp_path / "out").read_text().splitlines()
    assert "".join(json.loads(line)["element"] for line in lines) == text


def test_a_benchmark_counts_down(demo_server: ServerProcess, tmp_path: Path) -> None:
    out = shlex.quote(str(tmp_path / "out"))
    bench = f"{PROGRAM} bench weather --sessions 2 --seconds 2 --json > {out}"
    with shell(bench, demo_server) as terminal:
        terminal.shows(f"loading {demo_server.target} .*0:00:0")
        terminal.shows("over")
    assert json.loads((tmp_path / "out").read_text())["result"]["elements"] > 0


def test_an_export_shows_that_it_works(demo_server: ServerProcess, tmp_path: Path) -> None:
    per_step("GRU").save(tmp_path / "noise.onnx")
    export = f"cd {shlex.quote(str(tmp_path))}; {PROGRAM} export noise.onnx -o models > out"
    with shell(export, demo_server) as terminal:
        terminal.shows("exporting noise.onnx.*0:00:0")
        terminal.shows("over")
    assert (tmp_path / "models/noise/1/model.onnx").exists()
    assert "exporting" not in (tmp_path / "out").read_text()


def test_without_a_terminal_nothing_is_shown(demo_server: ServerProcess, tmp_path: Path) -> None:
    errors = shlex.quote(str(tmp_path / "errors"))
    script = f"yes a | head -c 60000 | {PROGRAM} stream shakespeare --json 2> {errors} > /dev/null"
    with shell(script, demo_server) as terminal:
        terminal.shows("over")
    assert (tmp_path / "errors").read_text() == ""
