"""Client of an example's server, with advice for a missing server."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

import elman


@contextmanager
def connected(target: str, example: str) -> Iterator[elman.Client]:
    """Client of the server at `target`.

    An `ElmanError` inside ends the command with a one-line message. For missing models, the message
    names the command to serve the example's models.
    """
    try:
        with elman.connect(target) as client:
            yield client
    except (elman.Unavailable, elman.ModelNotFound) as error:
        hint = f"start `elman serve examples/{example}/models`"
        raise click.ClickException(f"{error}; {hint}") from None
    except elman.ElmanError as error:
        raise click.ClickException(str(error)) from None
