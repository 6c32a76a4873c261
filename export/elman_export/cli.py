"""`elman export`: reruns a recipe and says what it wrote. Training and torch load only when it
runs."""

from importlib import import_module
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

RECIPES = ("sentiment", "shakespeare", "weather")


@click.command()
@click.argument("recipe", type=click.Choice(RECIPES))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The model repository to write to: RECIPE/1/model.onnx and RECIPE/README.md.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A data file instead of the recipe's own; shakespeare needs one, any text.",
)
def export(recipe: str, output: Path, data: Path | None) -> None:
    """Train one of the bundled models again, prove its step model, and write it with its card.

    \b
    elman export weather --output models/
    elman export shakespeare --data tinyshakespeare.txt --output models/
    elman serve models/
    """
    from elman_export.errors import ExportError

    try:
        report = import_module(f"elman_export.recipes.{recipe}").run(data, output)
    except (ExportError, OSError) as error:
        raise click.ClickException(str(error)) from None
    table = Table(title=f"{report.path} ({report.size:,} bytes)", title_justify="left")
    for column in ("output", "largest difference", "allowed"):
        table.add_column(column)
    for difference in report.differences:
        table.add_row(difference.output, f"{difference.maximum:.1e}", f"{difference.tolerance:.1e}")
    Console().print(table)
