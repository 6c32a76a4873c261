"""What a shell offers while a command is typed, from a real server and in a real shell."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serverprocess import ServerProcess
from tests.terminal import Terminal

PROGRAM = str(Path(sys.executable).with_name("elman"))
Offered = Callable[..., list[str]]


@pytest.fixture
def offered(demo_server: ServerProcess) -> Offered:
    """What bash offers for the last of some words; it finds the demo server by itself."""

    def offered(*words: str, target: str = demo_server.target) -> list[str]:
        asked = {
            "_ELMAN_COMPLETE": "bash_complete",
            "COMP_WORDS": "\n".join(["elman", *words]),
            "COMP_CWORD": str(len(words)),
            "ELMAN_TARGET": target,
        }
        done = subprocess.run(
            [PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]

    return offered


@pytest.mark.parametrize("command", ["stream", "bench", "health"])
def test_models_are_those_of_the_server(command: str, offered: Offered) -> None:
    assert offered(command, "s") == ["sentiment", "shakespeare"]
    assert offered(command, "w") == ["weather"]
    assert offered(command, "x") == []


def test_outputs_are_those_of_the_model(offered: Offered) -> None:
    assert offered("stream", "weather", "--output", "t") == ["temperature"]


def test_a_target_that_was_typed_is_asked(offered: Offered, demo_server: ServerProcess) -> None:
    # Bash has colons for words of their own.
    host, port = demo_server.target.split(":")
    words = ("stream", "--target", host, ":", port, "se")
    assert offered(*words, target="127.0.0.1:1") == ["sentiment"]


def test_subcommands_are_offered_without_importing_them(offered: Offered) -> None:
    assert offered("st") == ["stream"]
    assert "export" in offered("e")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_no_server_is_waited_for_long(offered: Offered, silent: str) -> None:
    begun = time.monotonic()
    assert offered("stream", "s", target=silent) == []
    assert time.monotonic() - begun < 30  # the SDK's own patience
    assert offered("stream", "s", target="127.0.0.1:1") == []
    assert offered("stream", "s", target="nonsense") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_models_name(demo_server: ServerProcess) -> None:
    folder = Path(PROGRAM).parent
    env = {"ELMAN_TARGET": demo_server.target, "PATH": f"{folder}:{os.environ['PATH']}"}
    with Terminal(["bash", "--norc", "-i"], env=env) as terminal:
        terminal.type('eval "$(_ELMAN_COMPLETE=bash_source elman)"; echo re""ady\n')
        terminal.shows("ready")
        terminal.type("elman stream sen\t")
        terminal.shows("elman stream sentiment ")
