"""`elman inspect`: a step model's spec, for people and for scripts."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from elman_server.modelfile import ModelFile, ModelFileError, read
from elman_server.spec import InputSpec, OutputSpec, StateSpec

_SHOWN = 12
"""Entries of a vocabulary or of labels that are shown before the rest is only counted."""


@click.command(
    epilog="""\b
    Examples:
      elman inspect model.onnx
      elman inspect model.onnx --json | jq .spec.outputs
    """
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def inspect(model: Path, as_json: bool) -> None:
    """Show what a step model takes, gives and carries.

    MODEL is an ONNX file that `elman export` made. Its fingerprint is checked against its contents.
    """
    try:
        file = read(model)
    except ModelFileError as error:
        raise click.ClickException(str(error)) from None
    size = model.stat().st_size
    if as_json:
        click.echo(json.dumps(_document(file, size), ensure_ascii=False))
    else:
        Console(highlight=False).print(_table(file, size))


def _document(file: ModelFile, size: int) -> dict[str, object]:
    return {
        "path": str(file.path),
        "file_bytes": size,
        "fingerprint": file.fingerprint,
        "state_bytes": file.spec.state_bytes,
        "spec": json.loads(file.spec.to_json()),
    }


def _table(file: ModelFile, size: int) -> Table:
    spec = file.spec
    table = Table(show_header=False, title=str(file.path), title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if spec.description:
        table.add_row("description", spec.description)
    table.add_row("input", _input(spec.input))
    if spec.input.vocabulary:
        table.add_row("vocabulary", _summary(spec.input.vocabulary))
    for output in spec.outputs:
        table.add_row("output", _output(output))
    for state in spec.states:
        table.add_row("state", _state(state))
    table.add_row("state bytes", f"{spec.state_bytes:,} a session")
    table.add_row("time axis", _time(time_axis=spec.time_axis, lengths=spec.lengths))
    table.add_row("fingerprint", file.fingerprint)
    table.add_row("file size", f"{size:,} bytes")
    return table


def _input(spec: InputSpec) -> str:
    text = f"{spec.name}: {spec.kind}, {spec.dtype}{list(spec.shape)}"
    if spec.size:
        text += f", {spec.size:,} ids"
    if spec.unknown is not None:
        text += f", unknown characters become {spec.unknown}"
    return text


def _output(spec: OutputSpec) -> str:
    text = f"{spec.name}: {spec.kind}, {spec.dtype}{list(spec.shape)}"
    return f"{text}\nlabels {_summary(spec.labels)}" if spec.labels else text


def _state(spec: StateSpec) -> str:
    if spec.initial is None:
        initial = "zeros"
    else:
        initial = f"{len(spec.initial):,} values in {min(spec.initial):g} to {max(spec.initial):g}"
    return (
        f"{spec.name}: {spec.output} -> {spec.input}, {spec.dtype}{list(spec.shape)}, "
        f"batch axis {spec.batch_axis}, starts as {initial}"
    )


def _summary(entries: Sequence[str]) -> str:
    shown = " ".join(map(repr, entries[:_SHOWN]))
    rest = len(entries) - _SHOWN
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def _time(*, time_axis: bool, lengths: str | None) -> str:
    if not time_axis:
        return "none: one element a step"
    return f"ragged, by {lengths}" if lengths else "equal chunks only"
