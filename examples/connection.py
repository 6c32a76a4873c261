"""The server that an example's client talks to, and what to do where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

import elman


@contextmanager
def connected(target: str, example: str) -> Iterator[elman.Client]:
    """A client of the server at `target`. An `ElmanError` inside ends the command with one line,
    which tells how to serve the example's models if these are missing."""
    try:
        with elman.connect(target) as client:
            yield client
    except (elman.Unavailable, elman.ModelNotFound) as error:
        hint = f"start `elman serve examples/{example}/models`"
        raise click.ClickException(f"{error}; {hint}") from None
    except elman.ElmanError as error:
        raise click.ClickException(str(error)) from None
