"""Contexts from the command line: `NAME=FILE.npy`, or `NAME=` and numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import click
import numpy as np

from elman import Context, Model

_FILE = ".npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextArgument:
    """A context option before its value is read."""

    name: str
    text: str


def _split(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[ContextArgument, ...]:
    return tuple(_argument(value) for value in values)


def _argument(value: str) -> ContextArgument:
    name, _, text = value.partition("=")
    if not name or not text:
        raise click.BadParameter(
            f"{value!r} is no context; expected is NAME=FILE{_FILE}, or NAME= and numbers with "
            "commas between"
        )
    return ContextArgument(name=name, text=text)


context_option = click.option(
    "--context",
    "contexts",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_split,
    help=f"A context, given to each session at its open: a {_FILE} file, or numbers separated by "
    "commas. Once for each context of the model.",
)


def read(argument: Iterable[ContextArgument], model: Model) -> dict[str, np.ndarray]:
    """Reads the contexts of a model.

    Raises `UsageError` for a missing, unknown or repeated context, and for a wrong shape.
    """
    expected = {context.name: context for context in model.contexts}
    contexts: dict[str, np.ndarray] = {}
    for each in argument:
        if each.name not in expected:
            takes = ", ".join(map(str, model.contexts)) or "none"
            raise click.UsageError(f"--context {each.name}: {model.name!r} takes {takes}")
        if each.name in contexts:
            raise click.UsageError(f"--context {each.name} is given twice; allowed is once")
        contexts[each.name] = _array(each, expected[each.name])
    for context in model.contexts:
        if context.name not in contexts:
            raise click.UsageError(
                f"{model.name!r} needs --context {context.name}=..., {_expected(context)}"
            )
    return contexts


def _array(argument: ContextArgument, context: Context) -> np.ndarray:
    array = _loaded(argument) if argument.text.endswith(_FILE) else _typed(argument, context)
    if array.shape != context.shape:
        raise click.UsageError(
            f"--context {argument.name} is {argument.text!r} of shape {list(array.shape)}; "
            f"expected is {_expected(context)}"
        )
    return array


def _loaded(argument: ContextArgument) -> np.ndarray:
    try:
        with open(argument.text, "rb") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise click.UsageError(
            f"--context {argument.name}: {argument.text}: {error.strerror}"
        ) from None
    except Exception:  # numpy raises many exception types for a broken header
        raise click.UsageError(
            f"--context {argument.name}: {argument.text} is no {_FILE} file of numbers"
        ) from None
    return array


def _typed(argument: ContextArgument, context: Context) -> np.ndarray:
    read = float if context.dtype.kind == "f" else int
    try:
        return np.array([read(word) for word in argument.text.replace(",", " ").split()]).reshape(
            context.shape
        )
    except ValueError:
        raise click.UsageError(
            f"--context {argument.name} is {argument.text!r}; expected is {_expected(context)}"
        ) from None


def _expected(context: Context) -> str:
    """Text for people: the allowed value of a context."""
    count = prod(context.shape)
    numbers = "a number" if count == 1 else f"{count} numbers with commas between"
    return f"{numbers} or a {_FILE} file: {context}"
