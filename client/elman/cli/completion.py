"""Shell completion: names of the server's models and outputs."""

from collections.abc import Callable
from typing import TypeVar

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

import elman
from elman.cli.connection import DEFAULT_TARGET

T = TypeVar("T")

_SECONDS = 1.0
"""Timeout of a lookup for the shell."""


def models(context: click.Context, _parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """Completes names of the server's models; returns no names after the timeout."""
    result = _ask(context, lambda client: client.models())
    described = {model.name: model.description for model in result or ()}
    return [
        CompletionItem(name, help=description)
        for name, description in sorted(described.items())
        if name.startswith(word)
    ]


def outputs(context: click.Context, _parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """Completes names of the outputs of the model on the command line."""
    # While an option's value is being typed, click does not assign the arguments.
    name = context.params.get("model") or next(iter(context.args), None)
    result = _ask(context, lambda client: client.model(name)) if name else None
    return [
        CompletionItem(output.name, help=str(output.kind))
        for output in (result.outputs if result else ())
        if output.name.startswith(word)
    ]


def _ask(context: click.Context, question: Callable[[elman.Client], T]) -> T | None:
    target = context.params.get("target") or DEFAULT_TARGET
    try:
        with elman.connect(target, timeout=_SECONDS, connect_timeout=_SECONDS) as client:
            return question(client)
    except elman.ElmanError:
        return None  # the command itself reports the error later


class Bash(BashComplete):
    """Completion for Bash, where `host:port` is split into three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, word = super().get_completion_args()
        joined: list[str] = []
        for each in [*words, word]:
            if joined and (each == ":" or joined[-1].endswith(":")):
                joined[-1] += each
            else:
                joined.append(each)
        return joined[:-1], joined[-1]


def register() -> None:
    """Registers the shells with extensions to click."""
    add_completion_class(Bash)
