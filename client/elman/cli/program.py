"""The click group of all subcommands, from a table of names.

Imports a subcommand only on demand: `elman --help` stays quick, and a subcommand with a missing
extra does not affect other subcommands.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An optional part of the package, detected by a few of the installed modules."""

    name: str
    modules: tuple[str, ...]

    def is_installed(self) -> bool:
        return all(find_spec(module) is not None for module in self.modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcommand:
    target: str
    """`module:attribute` of the subcommand's `click.Command`."""
    summary: str
    """Line in `elman --help`."""
    extra: Extra | None = None
    """Extra required by the subcommand."""


SERVER = Extra(name="server", modules=("onnxruntime", "structlog", "grpc_health"))
SPEC = Extra(name="server", modules=("pydantic",))
EXPORT = Extra(name="export", modules=("torch", "onnx", "pydantic"))

SUBCOMMANDS = {
    "serve": Subcommand(
        target="elman_server.cli.serve:serve",
        summary="Serve step models to streams over gRPC.",
        extra=SERVER,
    ),
    "models": Subcommand(
        target="elman.cli.models:models",
        summary="List the models of a server.",
    ),
    "stream": Subcommand(
        target="elman.cli.stream:stream",
        summary="Push typed or piped input to a model and print its predictions.",
    ),
    "health": Subcommand(
        target="elman_server.cli.health:health",
        summary="Ask a server whether it is ready.",
        extra=SERVER,
    ),
    "inspect": Subcommand(
        target="elman_server.cli.inspect:inspect",
        summary="Show the inputs, outputs and states of a step model.",
        extra=SPEC,
    ),
    "export": Subcommand(
        target="elman_export.cli.command:export",
        summary="Make a step model of a trained network, prove that it is the same network, and "
        "write it.",
        extra=EXPORT,
    ),
    "bench": Subcommand(
        target="elman.cli.bench:bench",
        summary="Load a server with random elements, and measure throughput and latency.",
    ),
    "demo": Subcommand(
        target="elman.cli.demo:demo",
        summary="Start a server with the bundled models and show them at work.",
        extra=SERVER,
    ),
}


class Program(click.Group):
    """A click group over `SUBCOMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        subcommand = SUBCOMMANDS.get(cmd_name)
        if subcommand is None:
            return None
        extra = subcommand.extra
        if extra is not None and not extra.is_installed():
            if ctx.resilient_parsing:  # during shell completion
                return None
            raise click.UsageError(
                f"{cmd_name!r} needs the {extra.name} extra: pip install 'elman[{extra.name}]'", ctx
            )
        module, attribute = subcommand.target.split(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{subcommand.target} is not a click.Command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Does not import the subcommands.
        options = click.Command.shell_complete(self, ctx, incomplete)
        commands = [
            CompletionItem(name, help=entry.summary)
            for name, entry in SUBCOMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in SUBCOMMANDS.items()])


@click.group(
    cls=Program,
    epilog="""\b
    Examples:
      elman demo
      elman serve --demo
      echo 'happy birthday' | elman stream sentiment
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="elman", message="%(prog)s %(version)s")
def elman() -> None:
    """Serve recurrent networks to live streams: push an element, get its prediction, at once."""
