"""`elman stream`: pushes typed or piped input to a model and prints the predictions as lines."""

import sys
from collections import deque
from collections.abc import Iterator

import click

from elman import InputKind, Model, Stream
from elman.cli import completion
from elman.cli import contexts as context_arguments
from elman.cli.connection import connected, target_option
from elman.cli.contexts import ContextArgument, context_option
from elman.cli.elements import Element, characters, sequences
from elman.cli.printing import Printer
from elman.cli.progress import Tally
from elman.cli.show import View
from elman.cli.terminal.keyboard import Keyboard
from elman.cli.terminal.modes import keys
from elman.cli.terminal.typing import Open, Typing, bursts

_INVITATIONS = {
    InputKind.TEXT: "Type; Backspace takes back, Ctrl-D ends.",
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
@click.argument("model", shell_complete=completion.models)
@target_option
@click.option("--version", help="The model's version.  [default: the newest]")
@context_option
@click.option(
    "--session",
    "session_name",
    metavar="NAME",
    help="Resume the session of this name, or begin a new one. All input goes to this session. "
    "Needs a server with a state store.",
)
@click.option(
    "--output",
    "names",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.outputs,
    help="An output to print. Repeatable.  [default: all]",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="The number of alternatives to print, for outputs with alternatives.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each prediction.")
def stream(
    model: str,
    target: str,
    version: str | None,
    contexts: tuple[ContextArgument, ...],
    session_name: str | None,
    names: tuple[str, ...],
    top: int,
    as_json: bool,
) -> None:
    """Push typed or piped input to a model and print its predictions.

    A text model takes characters as they come. On a terminal, each key is pushed at once, and
    Backspace takes the last character back. Other models take an element a line: an id or its name,
    or the numbers of a feature array, separated by blanks or commas.

    A new session starts after an empty line, or after any line of a text model that has no
    character for the line's end. Ctrl-D ends the input. Ctrl-C ends the command at once, with exit
    code 130. Ctrl-Z suspends the command until fg.
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
        context = context_arguments.read(contexts, known)

        def opened(ticket: bytes | None) -> Stream:
            return client.stream(
                known.name,
                version=known.version if ticket is None else None,
                context=context if context and ticket is None else None,
                outputs=view.choices(),
                ticket=ticket,
                session=session_name,
            )

        printer = Printer(view, as_json=as_json)
        one = session_name is not None
        if not sys.stdin.isatty():
            # On a terminal, printed predictions already show the progress.
            unseen = not (sys.stdout and sys.stdout.isatty())
            with Tally(descriptor, shown=unseen) as printer.tally:
                _read(opened, known, characters(descriptor), printer, one=one)
        elif known.input.kind is InputKind.TEXT:
            _type(opened, known, descriptor, printer, session_name)
        else:
            click.echo(_INVITATIONS[known.input.kind], err=True)
            _read(opened, known, _text(characters(descriptor)), printer, one=one)


def _read(opened: Open, model: Model, text: Iterator[str], printer: Printer, *, one: bool) -> None:
    """Runs sessions in sequence, until the text ends.

    `one`: the sessions share a name, and are a single session opened repeatedly.
    """
    for number, elements in enumerate(sequences(text, model.input)):
        pushed: deque[Element] = deque()
        with opened(None) as session:
            for prediction in session.map(_noted(elements, pushed)):
                printer.prediction(0 if one else number, pushed.popleft(), prediction)


def _type(opened: Open, model: Model, descriptor: int, printer: Printer, name: str | None) -> None:
    """Runs sessions key by key, until Ctrl-D."""
    model_input = model.input
    typing = Typing(
        opened,
        printer,
        allowed=None if model_input.accepts_unknown else frozenset(model_input.vocabulary),
        splits="\n" not in model_input.vocabulary,
        fixed="" if name is None else "a named session is kept as it is",
        one=name is not None,
    )
    with keys(descriptor) as signals:
        click.echo(_INVITATIONS[model_input.kind], err=True)
        typing.run(bursts(descriptor, signals))


def _noted(elements: Iterator[Element], pushed: deque[Element]) -> Iterator[object]:
    """Yields the values of the elements, and appends the elements to `pushed` for the printer."""
    for element in elements:
        pushed.append(element)
        yield element.value


def _text(typed: Iterator[str]) -> Iterator[str]:
    """Yields a terminal's text without escape sequences."""
    keyboard = Keyboard()
    for character in typed:
        for key in keyboard.feed(character):
            if isinstance(key, str):
                yield key
