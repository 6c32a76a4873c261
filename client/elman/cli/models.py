"""`elman models`: models ready on a server."""

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import elman
from elman.cli.connection import connected, target_option
from elman.cli.document import document


@click.command(
    epilog="""\b
    Examples:
      elman models
      elman models --target models.example:50051
      elman models --json | jq -r .[].name
    """
)
@target_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def models(target: str, as_json: bool) -> None:
    """List the models of a server."""
    with connected(target) as client:
        models = client.models()
    if as_json:
        click.echo(document([_described(model) for model in models]))
    elif models:
        Console(highlight=False).print(_table(models))
    else:
        click.echo(f"{target} serves no model", err=True)


def _described(model: elman.Model) -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "description": model.description,
        "fingerprint": model.fingerprint,
        "state_bytes": model.state_bytes,
        "input": {
            "kind": model.input.kind,
            "dtype": None if model.input.dtype is None else model.input.dtype.name,
            "shape": model.input.shape,
            "size": model.input.size,
            "vocabulary": model.input.vocabulary,
            "accepts_unknown": model.input.accepts_unknown,
        },
        "contexts": [
            {"name": context.name, "dtype": context.dtype.name, "shape": context.shape}
            for context in model.contexts
        ],
        "outputs": [
            {
                "name": output.name,
                "kind": output.kind,
                "dtype": output.dtype.name,
                "shape": output.shape,
                "labels": output.labels,
            }
            for output in model.outputs
        ],
    }


def _table(models: list[elman.Model]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    table.add_column("version")
    table.add_column("state", justify="right", no_wrap=True)
    table.add_column("takes and gives", overflow="fold")
    for model in models:
        outputs = "\n".join(map(str, model.outputs))
        what = Text.assemble(f"{model.takes} -> {outputs}", ("\n" + model.description, "dim"))
        table.add_row(model.name, model.version, f"{model.state_bytes:,} B", what)
    return table
