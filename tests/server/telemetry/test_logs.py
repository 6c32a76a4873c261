"""The log is lines on stderr: for people or as JSON, whoever wrote them."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from elman_server.telemetry import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_hold_the_event_its_values_level_and_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("serving", grpc_port=50051)
    captured = capsys.readouterr()
    line = json.loads(captured.err)
    assert (line["event"], line["level"], line["grpc_port"]) == ("serving", "info", 50051)
    assert line["timestamp"].endswith("Z")
    assert captured.out == ""


def test_libraries_that_use_logging_write_the_same_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "json")
    logging.getLogger("grpc").warning("lost %s", "peer")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"]) == ("lost peer", "warning")


def test_what_is_always_so_stands_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", worker=3)
    structlog.get_logger().info("model ready")
    logging.getLogger("grpc").warning("lost")
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    assert [(line["event"], line["worker"]) for line in lines] == [("model ready", 3), ("lost", 3)]


@pytest.mark.parametrize("source", [structlog.get_logger(), logging.getLogger("library")])
def test_an_exception_stays_on_its_json_line(
    source: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("a broken model")
    except ValueError:
        source.exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "failed"
    assert "ValueError: a broken model" in line["exception"]


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("error", 1)])
def test_lines_below_the_level_are_left_out(
    level: logs.Level, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level, "json")
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("a line")
    assert len(capsys.readouterr().err.splitlines()) == count


def test_console_lines_are_plain_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    structlog.get_logger().info("serving", grpc_port=50051)
    line = capsys.readouterr().err
    assert "serving" in line
    assert "grpc_port=50051" in line
    assert "\x1b" not in line


def test_a_second_call_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    logs.configure("info", "json")
    structlog.get_logger().info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
