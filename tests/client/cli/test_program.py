"""`elman` finds its subcommands, loads only what is asked for, and fails in one line."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, TextIO

import click
import pytest

from elman.cli import program
from elman.cli.program import SUBCOMMANDS, Extra, Subcommand

Run = Callable[..., Any]


def test_help_lists_every_subcommand(elman: Run) -> None:
    result = elman("--help")
    assert result.code == 0
    for name, subcommand in SUBCOMMANDS.items():
        assert f"  {name} " in result.out
        assert subcommand.summary in " ".join(result.out.split())


def test_without_arguments_it_prints_its_help(elman: Run) -> None:
    assert elman().out == elman("--help").out


def test_version(elman: Run) -> None:
    assert elman("--version").out == f"elman {metadata.version('elman')}\n"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_summary_is_the_commands_own_first_line(name: str) -> None:
    module, attribute = SUBCOMMANDS[name].target.split(":")
    command = getattr(import_module(module), attribute)
    own = command.get_short_help_str(limit=200)
    assert own.rstrip(".") == SUBCOMMANDS[name].summary.rstrip(".")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_help_with_examples(name: str, elman: Run) -> None:
    result = elman(name, "--help")
    assert result.code == 0
    assert re.search(rf"^ +elman {name}", result.out, re.MULTILINE)


def test_help_loads_no_subcommand_and_nothing_that_only_they_need() -> None:
    script = (
        "import sys\n"
        "from elman.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "packages = {'elman_server', 'elman_export', 'rich', 'structlog', 'onnxruntime', 'torch'}\n"
        "print(packages & {module.split('.')[0] for module in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_missing_extra_is_named_in_one_line(elman: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Extra(name="server", modules=("there_is_no_such_module",))
    entry = Subcommand(target="no_such_module:command", summary="Serve.", extra=absent)
    monkeypatch.setitem(SUBCOMMANDS, "serve", entry)
    result = elman("serve")
    assert result.code == 2
    assert result.err == "elman: 'serve' needs the server extra: pip install 'elman[server]'\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["srve"], "elman: No such command 'srve'."),
        (["--verbose"], "elman: No such option '--verbose'."),
        (["models", "--target", ""], "elman models: Invalid value for '--target'"),
        (["inspect"], "elman inspect: Missing argument 'MODEL'."),
        (["inspect", "none.onnx"], "elman inspect: Invalid value for 'MODEL': File 'none.onnx'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args: list[str], message: str, elman: Run) -> None:
    result = elman(*args)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (click.ClickException("it did\nnot work"), 1, "elman: it did not work\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (OSError(28, "No space left on device"), 1, "elman: [Errno 28] No space left on device\n"),
    ],
)
def test_what_a_command_raises_becomes_a_line_and_a_code(
    raised: BaseException, code: int, err: str, elman: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise raised

    _replace(monkeypatch, click.Command("models", callback=fail))
    result = elman("models")
    assert (result.code, result.err) == (code, err)


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = _process("elman --help", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "elman: [Errno 28] No space left on device\n"


def test_a_closed_input_is_one_line() -> None:
    done = _process("elman stream sentiment <&-", stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "elman: there is nothing to read: standard input is closed\n"


def test_what_a_command_returns_is_the_exit_code(
    elman: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace(monkeypatch, click.Command("models", callback=lambda: 1))
    assert elman("models").code == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from elman.cli import main

    _replace(monkeypatch, click.Command("models", callback=lambda: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def _process(line: str, stdout: int | TextIO) -> subprocess.CompletedProcess[str]:
    """Runs a shell's line that begins with `elman`."""
    script = "from elman.cli import main; main()"
    shell = ["sh", "-c", line.replace("elman", f"{sys.executable} -c '{script}'", 1)]
    return subprocess.run(shell, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=30)


def _replace(monkeypatch: pytest.MonkeyPatch, command: click.Command) -> None:
    """Puts `command` in the place of `elman models`."""
    monkeypatch.setattr(program, "replaced", command, raising=False)
    entry = Subcommand(target="elman.cli.program:replaced", summary="")
    monkeypatch.setitem(SUBCOMMANDS, "models", entry)
