"""`elman demo`: a server with the bundled models, four scenes, and the server's own figures.

Any unexpected result ends the demo with an error, so the demo also tests an installation.
"""

import click
from rich.console import Console

from elman.cli.connection import connected
from elman.cli.demo import figures, scenes
from elman.cli.demo.failure import DemoFailed
from elman.cli.demo.server import DemoServer


@click.command(
    epilog="""\b
    Examples:
      elman demo
      NO_COLOR=1 elman demo
    """
)
def demo() -> None:
    """Start a server with the bundled models and show them at work.

    The server runs on free ports of this machine. The demo streams to the server over gRPC, prints
    the server's figures, stops the server and ends. The exit code is 1 after any failure.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        with console.status("starting a server with the bundled models"):
            server = DemoServer.start()
        with server:
            console.print(f"A server on {server.target}, its metrics on {server.metrics_url}")
            with connected(server.target) as client:
                work = scenes.play(client, console)
            counted = figures.fetch(server.metrics_url)
            figures.show(counted, console)
            figures.check(counted, work)
            server.stop()
    except DemoFailed as error:
        raise click.ClickException(str(error)) from error
    console.print("\nThe server stopped cleanly.")
