"""`elman stream`: what is typed or piped goes to a model, its predictions come back as lines."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial

import click
import numpy as np
from rich.console import Console

from elman import Client, Input, InputKind, Model
from elman.cli import contexts as given_contexts
from elman.cli.connection import connected, target_option
from elman.cli.contexts import Given, context_option
from elman.cli.elements import Element, characters, sequences
from elman.cli.show import View
from elman.cli.terminal import keys

_INVITATIONS = {
    InputKind.TEXT: "Type; Ctrl-D ends.",
    InputKind.TOKENS: "Type an id a line; Ctrl-D ends.",
    InputKind.FEATURES: "Type an element a line; Ctrl-D ends.",
}


@click.command(
    epilog="""\b
    Examples:
      elman stream sentiment
      echo 'happy birthday' | elman stream sentiment
      elman stream shakespeare --top 3 < sonnet.txt
      seq 50 60 | elman stream weather --json | jq .outputs.temperature
      elman stream captions --context picture=picture.npy
      elman stream sentiment --session bob
    """
)
@click.argument("model")
@target_option
@click.option("--version", help="The model's version.  [default: the newest]")
@context_option
@click.option(
    "--session",
    "session_name",
    metavar="NAME",
    help="Go on with the session of this name, or begin it; all input goes to it, line after line. "
    "Needs a server with a state store.",
)
@click.option(
    "--output", "names", metavar="NAME", multiple=True, help="An output to print; may be repeated."
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many alternatives to print of an output that has them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each prediction.")
def stream(
    model: str,
    target: str,
    version: str | None,
    contexts: tuple[Given, ...],
    session_name: str | None,
    names: tuple[str, ...],
    top: int,
    as_json: bool,
) -> None:
    """Push what is typed or piped to a model and print its predictions.

    A text model takes characters as they come, on a terminal each key at once. Other models take an
    element a line: an id, or the numbers of a feature array with blanks or commas between.

    A new session starts after an empty line, or after any line of a text model that has no
    character for the line's end. Ctrl-D ends the input; Ctrl-C the
    command at once, with exit code 130.
    """
    if sys.stdin is None:
        raise click.ClickException("there is nothing to read: standard input is closed")
    descriptor = sys.stdin.fileno()
    with connected(target) as client:
        known = client.model(model, version, session=session_name)
        try:
            view = View.of(known, names, top)
        except LookupError as error:
            raise click.UsageError(str(error.args[0])) from None
        context = given_contexts.read(contexts, known)
        run = partial(_run, client, known, context, view, session_name, as_json=as_json)
        if not sys.stdin.isatty():
            run(characters(descriptor))
            return
        typed = _fitting(characters(descriptor), known.input)
        with keys(descriptor) if known.input.kind is InputKind.TEXT else nullcontext():
            click.echo(_INVITATIONS[known.input.kind], err=True)
            run(typed)


def _run(
    client: Client,
    model: Model,
    context: Mapping[str, np.ndarray],
    view: View,
    name: str | None,
    text: Iterator[str],
    *,
    as_json: bool,
) -> None:
    """One session after another, until the text ends. All have the same context; if they have a
    name, they are one session that is opened again."""
    console = Console(highlight=False, soft_wrap=True)
    for number, elements in enumerate(sequences(text, model.input)):
        pushed: deque[Element] = deque()
        opening = client.stream(
            model.name,
            version=model.version,
            context=context or None,
            outputs=view.choices(),
            session=name,
        )
        with opening as session:
            for prediction in session.map(_noted(elements, pushed)):
                element = pushed.popleft()
                if as_json:
                    click.echo(view.document(0 if name else number, element, prediction))
                elif console.is_terminal:
                    console.print(view.text(element, prediction))
                else:
                    click.echo(view.text(element, prediction).plain.rstrip())


def _noted(elements: Iterator[Element], pushed: deque[Element]) -> Iterator[object]:
    """The elements' values; they themselves are kept until their predictions come."""
    for element in elements:
        pushed.append(element)
        yield element.value


def _fitting(typed: Iterator[str], given: Input) -> Iterator[str]:
    """Leaves out keys that the model has no character for; a bell tells who pressed them."""
    strict = given.kind is InputKind.TEXT and not given.accepts_unknown
    allowed = {*given.vocabulary, "\n"}
    for character in typed:
        if strict and character not in allowed:
            click.echo("\a", nl=False, err=True)
        else:
            yield character
