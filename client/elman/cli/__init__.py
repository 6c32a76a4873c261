"""The command line: the program `elman`, with subcommands loaded on demand."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from elman.cli.program import elman

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect: 128 + SIGINT."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Exit codes: 0 for success, 1 for a failed run, 2 for wrong usage, 130 after Ctrl-C. An expected
    error, such as a full disk, prints a line on stderr. An unexpected exception is a bug and keeps
    the traceback.
    """
    if "_ELMAN_COMPLETE" in os.environ:
        from elman.cli import completion

        completion.register()
    args = list(sys.argv[1:] if args is None else args)
    try:
        code = elman.main(args or ["--help"], prog_name="elman", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{_where(error)}: {_one_line(error)}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _drop_unwritten()
        click.echo(f"elman: {error}", err=True)
        sys.exit(1)
    sys.exit(code)


def _drop_unwritten() -> None:
    """Drops unwritten output: at exit, Python would retry the failed write and report an error."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _where(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return context.command_path if context else "elman"


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())
