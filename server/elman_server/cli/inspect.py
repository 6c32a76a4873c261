"""`elman inspect`: a step model's spec, batching and memory horizon."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console, RenderableType

from elman.cli.document import document
from elman_server.cli import description, remembering
from elman_server.cli.remembering import Recall, Recalled
from elman_server.errors import ModelLoadError
from elman_server.inspection.trial import NO_RUNTIME, Trial, runtime_is_available, try_out
from elman_server.model.modelfile import ModelFile, ModelFileError, read
from elman_server.model.proof import KeptProof, kept_proof


@click.command(
    epilog="""\b
    Examples:
      elman inspect model.onnx
      elman inspect model.onnx --json | jq .spec.outputs
      elman inspect model.onnx --horizon
      elman inspect model.onnx --horizon --examples text.txt --plot horizon.svg
    """
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--probe/--no-probe",
    default=True,
    help="Run the load-time probe of `elman serve`: whether the rows of a batch are independent "
    "(otherwise the model is served unbatched), and how many elements of a session may share a "
    "step. On by default.",
)
@click.option(
    "--horizon",
    is_flag=True,
    help="Measure how far back the network remembers: the influence of an element on the "
    "predictions 0, 1, 2, 4, ... elements later, and the lag from which the influence is under 1 % "
    "of the influence at lag 0.",
)
@click.option(
    "--examples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --horizon: measure on this input instead of random input. A UTF-8 text for a text "
    "model; for other models, a .npy of ids or features, [time, *shape] or [batch, time, *shape].",
)
@click.option(
    "--lags",
    callback=remembering.lags_option,
    metavar="N|max",
    help="With --horizon: the longest lag (256 by default, at most 4096), or max for the longest "
    "possible lag.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="With --horizon: draw influence by lag to this .svg or .png (needs the plot extra).",
)
def inspect(
    model: Path,
    as_json: bool,
    probe: bool,
    horizon: bool,
    examples: Path | None,
    lags: int | str | None,
    plot: Path | None,
) -> None:
    """Show the inputs, outputs and states of a step model.

    MODEL is an ONNX file from `elman export`. The command checks the file's fingerprint, then runs
    the model on random elements, to find out whether rows of a batch affect one another and how
    elements may be chunked. The line "batching" says how the server would batch the model, and why.
    The command also shows the export's proof, if the file has one.
    """
    recall = remembering.request(horizon=horizon, examples=examples, lags=lags, plot=plot)
    if recall is not None and not probe:
        raise click.UsageError("--horizon needs the probe: leave out --no-probe")
    if recall is not None and not runtime_is_available():
        raise click.UsageError(f"--horizon {NO_RUNTIME}")
    inspection = _inspect(model, probe=probe, recall=recall)
    if as_json:
        click.echo(document(inspection.document()))
    else:
        console = Console(highlight=False, markup=False, emoji=False)
        for part in inspection.parts():
            console.print(part)
    if inspection.failure:
        raise click.ClickException(f"{model}: {inspection.failure}")
    if recall is not None and recall.plot is not None and inspection.recalled is not None:
        remembering.draw(recall.plot, inspection.recalled, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inspection:
    """Results of an inspection."""

    file: ModelFile
    proof: KeptProof | None
    trial: Trial | None
    """Result of the probe; None if not requested, not possible or failed."""
    failure: str
    """Reason why the model can't be served; empty if no reason is known."""
    served: Mapping[str, str]
    """Table rows about serving, by heading."""
    recalled: Recalled | None

    def document(self) -> dict[str, object]:
        """Returns the results as a JSON document, for scripts."""
        batching: dict[str, object] | None = None
        if self.failure:
            batching = {"error": self.failure}
        elif self.trial is not None:
            batching = self.trial.document()
        document = {
            "path": str(self.file.path),
            "file_bytes": self.file.path.stat().st_size,
            "fingerprint": self.file.fingerprint,
            "state_bytes": self.file.spec.state_bytes,
            "spec": json.loads(self.file.spec.to_json()),
            "batching": batching,
            "proof": None if self.proof is None else self.proof.document,
        }
        if self.recalled is not None:
            document["horizon"] = remembering.document(self.recalled)
        return document

    def parts(self) -> Iterator[RenderableType]:
        """Yields the results as tables, for people."""
        yield from description.tables(self.file, self.proof, self.served)
        if self.recalled is not None:
            yield from remembering.tables(self.recalled)


def _inspect(path: Path, *, probe: bool, recall: Recall | None) -> _Inspection:
    try:
        file = read(path)
        proof = kept_proof(file)
    except ModelFileError as error:
        raise click.ClickException(str(error)) from None
    trial, recalled, failure = None, None, ""
    if not probe:
        served = {"batching": "not probed"}
    elif not runtime_is_available():
        served = {"batching": f"not probed: {NO_RUNTIME}"}
    else:
        try:
            trial = try_out(path)
            served = {"batching": trial.batching, "chunking": trial.chunking}
        except ModelLoadError as error:
            failure = str(error).removeprefix(f"{path}: ")
            served = {"batching": f"can't be served: {failure}"}
    if recall is not None and trial is not None:
        recalled = remembering.measured(recall, trial)
    return _Inspection(
        file=file, proof=proof, trial=trial, failure=failure, served=served, recalled=recalled
    )
