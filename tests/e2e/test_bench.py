"""`elman bench` loads a real server and tells what it saw."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serverprocess import ServerProcess
from tests.stepmodels import Shape, caption, lstm, save, save_conditioned

ELMAN = (sys.executable, "-c", "from elman.cli import main; main()")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("models")
    save(*lstm(Shape()), root / "letters/1/model.onnx")
    save_conditioned(caption(), root / "caption/1/model.onnx")
    with ServerProcess(str(root), "--max-sessions", "300") as process:
        yield process


def bench(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ELMAN, "bench", *arguments, "--target", server.target],
        capture_output=True,
        text=True,
        timeout=60,
    )


def measured(server: ServerProcess, *arguments: str) -> dict[str, Any]:
    done = bench(server, *arguments, "--json", "--seconds", "0.5", "--warm-up", "0.1")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (document["load"]["rate"] is None) is ("--rate" not in arguments)
    found: dict[str, Any] = document["result"]
    return found


@pytest.mark.parametrize(
    "load",
    [
        ["letters"],
        ["letters", "--sessions", "16", "--window", "8", "--output", "next", "--top", "3"],
        ["letters", "--sessions", "8", "--connections", "8"],
        ["caption", "--sessions", "4"],
    ],
    ids=lambda load: " ".join(load),
)
def test_closed_loops(server: ServerProcess, load: list[str]) -> None:
    before = server.metric("elman_elements_total", model=load[0])
    result = measured(server, *load)
    assert result["elements"] > 0
    assert server.metric("elman_elements_total", model=load[0]) - before >= result["elements"]
    assert 0 < result["latencies"]["p50"] <= result["latencies"]["p99"]


def test_an_open_loop_offers_what_was_asked_for_and_misses_none(server: ServerProcess) -> None:
    result = measured(server, "letters", "--rate", "2000", "--burst", "3", "--connections", "4")
    assert result["unanswered"] == 0
    # Poisson: 1,000 elements in bursts of 3, so 4 standard deviations are some 300.
    assert 700 < result["elements"] < 1300


def test_what_is_printed_is_what_was_measured(server: ServerProcess) -> None:
    done = bench(server, "letters", "--seconds", "0.5", "--warm-up", "0.1")
    lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    rows = {line[0]: line[1].split() for line in lines if len(line) == 2}
    units = {name: row[1] for name, row in rows.items() if len(row) == 2}
    assert units == {
        **dict.fromkeys(("p50", "p99", "p99.9", "highest", "to open the sessions"), "ms"),
        "client CPU an element": "µs",
    }
    times = [float(rows[name][0]) for name in ("p50", "p99", "p99.9", "highest")]
    assert times == sorted(times)
    assert float(rows["elements a frame"][0]) > 1


def test_the_server_s_own_figures(server: ServerProcess) -> None:
    result = measured(server, "letters", "--sessions", "32", "--metrics", server.metrics_url)
    assert result["server"]["cpu_seconds"] > 0
    assert result["server"]["rows"] / result["server"]["steps"] > 1
    assert result["server"]["resident_bytes"] > 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "model 'nobody' is unknown; ready are: caption, letters"),
        (["letters", "--sessions", "0"], "sessions is 0; allowed is 1 or more"),
        (["letters", "--output", "y"], "output 'y' is unknown; the model has next"),
        (["letters", "--sessions", "400"], "max_sessions is 300"),
        (["letters", "--metrics", "http://127.0.0.1:1/"], "Connection refused"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: ServerProcess, arguments: list[str], message: str
) -> None:
    done = bench(server, *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
