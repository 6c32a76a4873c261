"""Predictions on standard output: lines for people, cut to the terminal's width, or JSON."""

import click
from rich.console import Console
from rich.text import Text

from elman import Prediction
from elman.cli.document import document
from elman.cli.elements import Element
from elman.cli.progress import Tally
from elman.cli.show import View


class Printer:
    """Prints each prediction as it arrives, and a heading for each new session."""

    def __init__(self, view: View, *, as_json: bool) -> None:
        self._view = view
        self._as_json = as_json
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._session = 0
        self.tally: Tally | None = None
        """Progress display for the printed predictions, if any."""

    def prediction(self, session: int, element: Element, prediction: Prediction) -> None:
        """Prints a prediction. `session` counts from 0."""
        if self.tally is not None:
            self.tally.add(element)
        if self._as_json:
            click.echo(self._view.document(session, element, prediction))
            return
        if session != self._session:
            self._session = session
            self._line(Text(f"\nsession {session + 1}", "dim"))
        # A terminal's size may change between lines.
        width = self._console.width if self._console.is_terminal else None
        self._line(self._view.text(element, prediction, width))

    def taken_back(self, session: int, position: int, element: str) -> None:
        """Prints the removal of the element at `position` from the session."""
        if self._as_json:
            taken = {"session": session, "position": position, "taken_back": element}
            click.echo(document(taken))
        else:
            self._line(Text.assemble((f"{element!r:<4}", "bold"), " taken back"))

    def _line(self, line: Text) -> None:
        if self._console.is_terminal:
            self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            click.echo(line.plain)
