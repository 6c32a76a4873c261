"""The server of a command, with the SDK's errors as command-line errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

import elman


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter(
            "the address is empty; allowed is an address such as localhost:50051"
        )
    return value


DEFAULT_TARGET = "localhost:50051"

target_option = click.option(
    "--target",
    default=DEFAULT_TARGET,
    callback=_address,
    envvar="ELMAN_TARGET",
    show_default=True,
    show_envvar=True,
    help="The server's address.",
)


@contextmanager
def connected(target: str) -> Iterator[elman.Client]:
    """Yields a client of the server at `target`. An `ElmanError` inside ends the command with a
    line on stderr."""
    try:
        with elman.connect(target) as client:
            yield client
    except elman.ElmanError as error:
        raise click.ClickException(str(error)) from error
