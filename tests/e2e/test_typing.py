"""`elman stream` at a terminal, with real keys, a real shell and a real server."""

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import elman
from tests.serverprocess import ServerProcess
from tests.terminal import Terminal

PROGRAM = str(Path(sys.executable).with_name("elman"))
BACKSPACE, CTRL_D, CTRL_Z = "\x7f", "\x04", "\x1a"
TYPE = "Type; Backspace takes back, Ctrl-D ends."

Stream = Callable[..., Terminal]


@pytest.fixture
def stream(demo_server: ServerProcess) -> Stream:
    """A terminal in which `elman stream ARGS` runs; it finds the demo server by itself."""

    def stream(*args: str, **options: Any) -> Terminal:
        env = {"ELMAN_TARGET": demo_server.target}
        return Terminal([PROGRAM, "stream", *args], env=env, **options)

    return stream


def line(terminal: Terminal) -> dict[str, Any]:
    """The next line of JSON."""
    found: dict[str, Any] = json.loads(terminal.shows(r"\{.*\}(?=\r\n)").group())
    return found


def answered(terminal: Terminal, count: int) -> list[Any]:
    return [line(terminal)["outputs"] for _ in range(count)]


def shown(terminal: Terminal) -> str:
    """The next line that begins with an element, without its colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.shows(r"('\w' .*)\r\n").group(1))


def expected(server: ServerProcess, text: str) -> list[Any]:
    with elman.connect(server.target) as client:
        return [
            {"positive": prediction["positive"]} for prediction in client.predict("sentiment", text)
        ]


def test_keys_that_are_no_characters_are_not_pushed(
    stream: Stream, demo_server: ServerProcess
) -> None:
    arrows, functions = "\x1b[A\x1bOB\x1b[1;5C", "\x1bOP\x1b[15~\x1b[[A"
    with stream("sentiment", "--json") as terminal:
        terminal.shows(TYPE)
        terminal.type(f"g{arrows}o{functions}\x1b[200~od\x1b[201~\x01{CTRL_D}")
        assert answered(terminal, 4) == expected(demo_server, "good")
        assert terminal.process.wait(60) == 0


def test_escape_alone_is_no_character_and_eats_none(
    stream: Stream, demo_server: ServerProcess
) -> None:
    with stream("sentiment", "--json") as terminal:
        terminal.shows(TYPE)
        terminal.type("\x1b")
        terminal.shows("\a")
        terminal.type("go")
        assert answered(terminal, 2) == expected(demo_server, "go")


def test_backspace_takes_back_to_the_bit(stream: Stream, demo_server: ServerProcess) -> None:
    with stream("sentiment", "--json") as terminal:
        terminal.shows(TYPE)
        terminal.type("bax")
        answered(terminal, 3)
        for position, element in ((2, "x"), (1, "a")):
            terminal.type(BACKSPACE)
            taken = {"session": 0, "position": position, "taken_back": element}
            assert line(terminal) == taken
        terminal.type("ad")
        assert answered(terminal, 2) == expected(demo_server, "bad")[1:]


def test_all_can_be_taken_back_and_no_more(stream: Stream, demo_server: ServerProcess) -> None:
    with stream("sentiment", "--json") as terminal:
        terminal.shows(TYPE)
        terminal.type("ba")
        answered(terminal, 2)
        terminal.type(BACKSPACE * 3)
        assert [line(terminal)["position"] for _ in range(2)] == [1, 0]
        terminal.shows("\a")
        terminal.type("good")
        assert answered(terminal, 4) == expected(demo_server, "good")


def test_the_end_of_a_long_paste_can_be_taken_back(
    stream: Stream, demo_server: ServerProcess
) -> None:
    text = "what a nice day, and what a sad end " * 20
    with stream("sentiment", "--json") as terminal:
        terminal.shows(TYPE)
        terminal.type(text)
        answered(terminal, len(text))
        terminal.type(BACKSPACE * 5)
        assert "".join(line(terminal)["taken_back"] for _ in range(5)) == " dne "
        terminal.type("film")
        whole = expected(demo_server, text[:-5] + "film")
        assert answered(terminal, 4) == whole[-4:]


def test_what_was_taken_back_is_told_to_people(stream: Stream) -> None:
    with stream("sentiment") as terminal:
        terminal.shows(TYPE)
        terminal.type("g")
        terminal.shows("'g'")
        terminal.type(BACKSPACE)
        terminal.shows("'g'.* taken back")


def test_a_named_session_says_that_nothing_is_taken_back(tmp_path: Path) -> None:
    key = {"ELMAN_TICKET_KEY": "0" * 64}
    with ServerProcess("--demo", "--state-store", f"file:{tmp_path}", env=key) as server:
        command = [PROGRAM, "stream", "sentiment", "--session", "bob", "--target", server.target]
        with Terminal(command) as terminal:
            terminal.shows(TYPE)
            terminal.type("g")
            terminal.shows("'g'")
            terminal.type(BACKSPACE)
            terminal.shows("Backspace can't take back: a named session is kept as it is")
            terminal.type("o")
            terminal.shows("'o'")


@pytest.mark.parametrize("how", ["Ctrl-Z", "SIGSTOP"])
def test_it_stops_and_goes_on_as_a_shell_expects(
    how: str, stream: Stream, demo_server: ServerProcess
) -> None:
    command = shlex.join([PROGRAM, "stream", "sentiment", "--json"])
    # In between, the shell and its other programs have the terminal as they want it.
    script = f"set -m; {command}; stty -a; stty sane; echo between; fg; echo over"
    env = {"ELMAN_TARGET": demo_server.target}
    with Terminal(["sh", "-c", script], env=env) as terminal:
        terminal.shows(TYPE)
        terminal.type("g")
        first = answered(terminal, 1)
        if how == "Ctrl-Z":
            terminal.type(CTRL_Z)
            modes = terminal.shows("(?s)speed.*?between").group().split()
            assert {"icanon;", "icanon", "echo;", "echo"} & set(modes) >= {"icanon", "echo"}
        else:
            stopped = next(p for p in terminal.processes if "stream" in p.cmdline())
            stopped.send_signal(signal.SIGSTOP)
            terminal.shows("between")
        terminal.shows("stream sentiment")
        terminal.type("o")
        assert first + answered(terminal, 1) == expected(demo_server, "go")
        terminal.type(CTRL_D)
        terminal.shows("over")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_terminal_is_left_as_it_was_found(number: int, stream: Stream) -> None:
    with stream("sentiment") as terminal:
        found = terminal.modes
        terminal.shows(TYPE)
        assert terminal.modes != found
        os.kill(terminal.process.pid, number)
        terminal.process.wait(60)
        assert terminal.modes == found


def test_lines_are_cut_to_the_terminals_width_whatever_that_is_now(stream: Stream) -> None:
    with stream("shakespeare", "--top", "5", columns=30) as terminal:
        terminal.shows(TYPE)
        lengths = []
        for columns in (30, 12, 79):
            terminal.resize(columns)
            terminal.type("T")
            lengths.append(len(shown(terminal)))
            assert lengths[-1] <= columns
        assert lengths == [30, 12, max(lengths)]
        assert lengths[2] > 30


def test_a_probability_is_seen_in_a_narrow_window(stream: Stream) -> None:
    with stream("sentiment", columns=16) as terminal:
        terminal.shows(TYPE)
        terminal.type("g")
        assert re.fullmatch(r"'g'  [█░]{5} 0\.\d{3}", shown(terminal))
