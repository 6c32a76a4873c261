"""The `elman` program against a real server, as a shell runs it."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import elman
from tests.serverprocess import ServerProcess

PROGRAM = str(Path(sys.executable).with_name("elman"))
SECONDS = 60

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def environment(demo_server: ServerProcess) -> dict[str, str]:
    return {**os.environ, "ELMAN_TARGET": demo_server.target, "COLUMNS": "200"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs `elman ARGS` to its end; it finds the demo server by itself."""

    def run(*args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PROGRAM, *args],
            input=stdin,
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS,
        )

    return run


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts `elman ARGS` and leaves it running."""
    started = []

    def start(*args: str, stdin: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [PROGRAM, *args],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_models_lists_what_is_served(run: Run) -> None:
    result = run("models")
    assert result.returncode == 0
    for name in ("sentiment", "shakespeare", "weather"):
        assert name in result.stdout
    assert "\x1b" not in result.stdout


def test_models_prints_json_for_scripts(run: Run, demo_server: ServerProcess) -> None:
    documents = json.loads(run("models", "--json").stdout)
    with elman.connect(demo_server.target) as client:
        models = client.models()
    assert [document["name"] for document in documents] == [model.name for model in models]
    for document, model in zip(documents, models, strict=True):
        assert document["fingerprint"] == model.fingerprint
        assert document["input"]["kind"] == model.input.kind
        assert tuple(document["input"]["vocabulary"]) == model.input.vocabulary
        assert [output["name"] for output in document["outputs"]] == [
            output.name for output in model.outputs
        ]


def test_health_tells_of_the_server_and_of_a_model(run: Run) -> None:
    for args in ([], ["weather"]):
        result = run("health", *args)
        assert (result.returncode, result.stdout) == (0, "SERVING\n")


def test_health_of_a_model_that_there_is_not_names_it_in_one_line(run: Run) -> None:
    result = run("health", "nonsense")
    assert result.returncode == 1
    assert result.stderr.endswith(": there is no model 'nonsense' (NOT_FOUND)\n")
    assert result.stderr.count("\n") == 1


def test_stream_predicts_what_is_piped_exactly(run: Run, demo_server: ServerProcess) -> None:
    text = "To be, or not to be:\nthat is the question"
    lines = [
        json.loads(line)
        for line in run("stream", "shakespeare", "--json", stdin=text).stdout.splitlines()
    ]
    assert "".join(line["element"] for line in lines) == text
    assert [line["position"] for line in lines] == list(range(len(text)))
    with elman.connect(demo_server.target) as client:
        expected = client.predict("shakespeare", text, outputs=elman.Top("next", 5))
    for line, prediction in zip(lines, expected, strict=True):
        assert line["outputs"]["next"] == [entry._asdict() for entry in prediction.top(5)]


def test_stream_starts_a_new_session_where_the_input_says_so(run: Run) -> None:
    result = run("stream", "weather", "--json", stdin="50\n51\n\n50\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["session"], line["position"]) for line in lines] == [(0, 0), (0, 1), (1, 0)]
    assert lines[0]["outputs"] == lines[2]["outputs"]


def test_sessions_are_seen_apart(run: Run) -> None:
    lines = run("stream", "weather", stdin="50\n51\n\n50\n").stdout.splitlines()
    assert [line.split()[0] if line else "" for line in lines] == ["50", "51", "", "session", "50"]
    assert lines[3] == "session 2"
    assert lines[4] == lines[0]


def test_stream_answers_each_element_while_its_input_is_still_open(start: Start) -> None:
    process = start("stream", "weather", "--json")
    assert process.stdin is not None
    assert process.stdout is not None
    for position in range(3):
        process.stdin.write(b"50\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["position"] == position
    process.stdin.close()
    assert process.wait(SECONDS) == 0


def test_stream_keeps_up_with_a_long_text(run: Run) -> None:
    text = "to be or not to be " * 500
    lines = run("stream", "shakespeare", "--json", stdin=text).stdout.splitlines()
    assert "".join(json.loads(line)["element"] for line in lines) == text


def test_a_reader_that_has_seen_enough_ends_the_stream_quietly(start: Start) -> None:
    process = start("stream", "shakespeare", "--json")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"to be or not to be " * 2000)
    process.stdin.close()
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr.read() == b""


@pytest.fixture
def keyboard() -> Iterator[tuple[int, int]]:
    """(keyboard, the terminal that it types to)"""
    keyboard, terminal = pty.openpty()
    yield keyboard, terminal
    os.close(keyboard)
    os.close(terminal)


def test_stream_answers_each_key_as_it_is_typed_until_ctrl_d(
    start: Start, keyboard: tuple[int, int]
) -> None:
    keys, terminal = keyboard
    process = start("stream", "sentiment", stdin=terminal)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == b"Type; Backspace takes back, Ctrl-D ends.\n"
    for letter in (b"g", b"o"):
        os.write(keys, letter)
        assert process.stdout.readline().startswith(f"'{letter.decode()}'  ".encode())
    os.write(keys, b"\x04")
    assert process.wait(SECONDS) == 0
    assert process.stderr.read() == b""


def test_ctrl_c_ends_typing_as_the_shell_expects(start: Start, keyboard: tuple[int, int]) -> None:
    keys, terminal = keyboard
    process = start("stream", "sentiment", stdin=terminal)
    assert process.stdout is not None
    assert process.stderr is not None
    os.write(keys, b"g")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("args", "stdin", "code", "message"),
    [
        (["nonsense"], "", 1, "nonsense"),
        (
            ["weather", "--output", "rain"],
            "",
            2,
            "'weather' has no output 'rain'; it has temperature",
        ),
        (["weather"], "50\nwarm\n", 1, "line 2 is 'warm'; expected is a number"),
        (["weather"], "nan\n", 1, "nan"),
        (["shakespeare"], "caf\u00e9", 1, "\u00e9"),
    ],
)
def test_what_stream_can_not_do_is_one_line(
    args: list[str], stdin: str, code: int, message: str, run: Run
) -> None:
    result = run("stream", *args, stdin=stdin)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_predictions_before_a_wrong_element_are_printed(run: Run) -> None:
    result = run("stream", "weather", "--json", stdin="50\n51\nwarm\n52\n")
    assert len(result.stdout.splitlines()) == 2


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        target = f"127.0.0.1:{unused.getsockname()[1]}"
    for command in (["models"], ["health"]):
        result = run(*command, "--target", target)
        assert result.returncode == 1
        assert target in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_server_stops_on_sigterm_with_exit_code_0() -> None:
    with ServerProcess("--demo") as server:
        assert server.terminate() == 0


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_in_use_is_one_line_and_exit_code_2(flag: str, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = ["--port", "0", "--metrics-port", "0", flag, port]
        result = run("serve", "--demo", "--log-level", "error", *ports)
    assert result.returncode == 2
    assert port in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_models_is_one_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    result = run("serve", str(tmp_path), "--port", "0", "--metrics-port", "0")
    assert result.returncode == 2
    assert str(tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
