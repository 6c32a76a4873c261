"""The vanishing gradient, trained, exported and measured: `python -m examples.horizon`.

Trains plain RNNs and LSTMs to repeat letters after 5, 10, 20 or 50 elements. Prints accuracy by lag
and the gradient's norm by lag. Exports an RNN and an LSTM that learned all lags together, and
measures their horizons with `elman inspect`. Writes the figures and the pictures of
docs/horizon.md.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import elman_export
from elman_server.inspection.horizon import plot
from examples.horizon import pictures
from examples.horizon.gradient import norms
from examples.horizon.jobs import Job, Trained, work
from examples.horizon.networks import Recaller
from examples.horizon.task import LETTERS
from examples.horizon.training import QUICK, Choice, Plan, untrained

ALONE = (
    Choice(kind="LSTM", init="long forget bias"),
    Choice(kind="LSTM", init="default"),
    Choice(kind="RNN", init="orthogonal"),
    Choice(kind="RNN", init="default"),
)
"""Four trainings, each on a single lag."""

TOGETHER = (
    Choice(kind="LSTM", init="long forget bias", rate=1e-2),
    Choice(kind="RNN", init="default"),
)
"""Training on all lags together, for the export. From the results of `examples.horizon.search`."""

_STREAMS_SEED = 4_000_000


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/horizon"),
    show_default=True,
    help="A folder for figures.json, the pictures, and the two step models as NAME/1/model.onnx.",
)
@click.option("--seeds", default=1, show_default=True, help="How often all is trained anew.")
@click.option("--jobs", default=2, show_default=True, help="Processes, with one thread each.")
@click.option("--quick", is_flag=True, help="Small networks that learn little, in half a minute.")
def run(output: Path, seeds: int, jobs: int, quick: bool) -> None:
    """Show how far back plain RNNs and LSTMs learn to remember."""
    if not plot.is_available():
        raise click.ClickException(
            "the pictures need matplotlib: pip install -e '.[server,export,plot]'"
        )
    plan = QUICK if quick else Plan()
    output.mkdir(parents=True, exist_ok=True)
    trained = _train(plan, seeds, jobs)
    figures: dict[str, Any] = {
        "plan": asdict(plan),
        "parameters": {
            choice.kind: sum(p.numel() for p in untrained(plan, choice).parameters())
            for choice in TOGETHER
        },
        "alone": {
            choice.label: {
                str(lag): [each.right[lag] for each in _of(trained, plan.alone(lag), choice)]
                for lag in plan.lags
            }
            for choice in ALONE
        },
        "together": {
            choice.label: {
                str(lag): [each.right[lag] for each in _of(trained, plan, choice)]
                for lag in plan.lags
            }
            for choice in TOGETHER
        },
        "gradient_before": {
            choice.label: _norms(plan, untrained(plan, choice)) for choice in ALONE
        },
    }
    first = {choice: _of(trained, plan, choice)[0].network() for choice in TOGETHER}
    figures["gradient_after"] = {
        choice.label: _norms(plan, network) for choice, network in first.items()
    }
    examples = output / "streams.npy"
    streams = plan.task.streams(64, 400, np.random.default_rng(_STREAMS_SEED))
    np.save(examples, streams.elements)
    figures["horizon"] = {
        choice.label: _horizon(_export(plan, network, choice, output), examples, plan)
        for choice, network in first.items()
    }
    (output / "figures.json").write_text(json.dumps(_rounded(figures)) + "\n", encoding="utf-8")
    _draw(plan, output, figures)
    click.echo(f"wrote figures.json, pictures and step models to {output}")


def _train(plan: Plan, seeds: int, processes: int) -> list[Trained]:
    # The longest first, so that no process is left with one of them at the end.
    jobs = [
        Job(plan=each, choice=replace(choice, seed=seed))
        for seed in range(seeds)
        for choices, plans in (
            (TOGETHER, [plan]),
            (ALONE, [plan.alone(lag) for lag in plan.lags]),
        )
        for choice in choices
        for each in plans
    ]
    trained = []
    for found in work(jobs, processes):
        trained.append(found)
        shares = ", ".join(f"{found.right[lag]:.1%} at {lag}" for lag in found.job.plan.lags)
        click.echo(f"{len(trained):2}/{len(jobs)} {found.job.choice.label}: right {shares}")
    return trained


def _of(trained: Sequence[Trained], plan: Plan, choice: Choice) -> list[Trained]:
    """By seed."""
    found = [
        each
        for each in trained
        if each.job.plan == plan and replace(each.job.choice, seed=choice.seed) == choice
    ]
    return sorted(found, key=lambda each: each.job.choice.seed)


def _norms(plan: Plan, network: Recaller) -> list[float]:
    longest = max(plan.lags)
    return list(norms(plan, network, longest, longest=longest * 6 // 5, warm_up=longest))


def _export(plan: Plan, network: Recaller, choice: Choice, output: Path) -> Path:
    names = plan.task.names
    report = elman_export.export(
        network,
        output / choice.kind.lower() / "1" / "model.onnx",
        input=elman_export.tokens(len(names), names=names),
        outputs=[elman_export.logits("answer", labels=plan.task.labels)],
        description=f"Tells letters again {', '.join(map(str, plan.lags))} elements later",
    )
    return report.path


def _horizon(path: Path, examples: Path, plan: Plan) -> dict[str, Any]:
    """Result of `elman inspect --horizon`."""
    program = shutil.which("elman", path=str(Path(sys.executable).parent)) or "elman"
    command = [program, "inspect", str(path), "--horizon", "--examples", str(examples)]
    command += ["--lags", str(2 * max(plan.lags)), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)["horizon"]
    return found


def _draw(plan: Plan, output: Path, figures: Mapping[str, Any]) -> None:
    pictures.accuracy(output / "horizon-accuracy.svg", figures["alone"], 1 / len(LETTERS))
    pictures.gradient(output / "horizon-gradient.svg", figures["gradient_before"], plan.lags)
    curves = {
        label: found["outputs"][0]["influence"] for label, found in figures["horizon"].items()
    }
    title = "elman inspect --horizon, on the task's own streams"
    plot.draw(output / "horizon-influence.svg", curves, title)


def _rounded(value: Any) -> Any:
    """Rounds to four digits, for a readable file."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    run()
