"""The vanishing gradient, trained, exported and measured: `python -m examples.horizon`.

Trains a plain RNN and an LSTM on the same task, says how often each is right by lag and how the
gradient's norm falls with the lag, exports both, measures the horizon of both step models with
`elman inspect`, and writes the figures and the pictures of docs/horizon.md.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import elman_export
from elman_server.horizon import plot
from examples.horizon import pictures
from examples.horizon.gradient import norms
from examples.horizon.networks import Recaller
from examples.horizon.task import LETTERS
from examples.horizon.training import QUICK, Choice, Plan, accuracy, train, untrained

CHOICES = (
    Choice(kind="LSTM", init="long forget bias", rate=3e-3),
    Choice(kind="RNN", init="default", rate=3e-3),
)
"""The best of what `examples.horizon.search` tried."""


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/horizon"),
    show_default=True,
    help="A folder for figures.json, the pictures, and the two step models as NAME/1/model.onnx.",
)
@click.option("--quick", is_flag=True, help="Small networks that learn little, in some seconds.")
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    help="Networks of each kind; the first of each is exported.",
)
def run(output: Path, quick: bool, seeds: int) -> None:
    """Show how far back a plain RNN and an LSTM learn to remember."""
    plan = QUICK if quick else Plan()
    output.mkdir(parents=True, exist_ok=True)
    examples = output / "streams.npy"
    np.save(examples, plan.task.streams(64, 400, np.random.default_rng(4_000_000)).elements)
    right: dict[str, dict[int, list[float]]] = {}
    gradients: dict[str, dict[str, list[float]]] = {}
    horizons: dict[str, Any] = {}
    for choice in CHOICES:
        networks = [train(plan, replace(choice, seed=seed)) for seed in range(seeds)]
        by_seed = [accuracy(plan, network) for network in networks]
        right[choice.kind] = {lag: [each[lag] for each in by_seed] for lag in (*plan.lags, 0)}
        gradients[choice.kind] = {
            "before": _norms(plan, untrained(plan, choice)),
            "after": _norms(plan, networks[0]),
        }
        path = _export(plan, networks[0], choice, output)
        horizons[choice.kind] = _horizon(path, examples, 2 * max(plan.lags))
    figures = {
        "plan": asdict(plan),
        "choices": [asdict(choice) for choice in CHOICES],
        "accuracy": right,
        "gradient": gradients,
        "horizon": horizons,
    }
    (output / "figures.json").write_text(json.dumps(_rounded(figures)) + "\n", encoding="utf-8")
    _draw(plan, output, right, gradients, horizons)
    _tell(plan, right, gradients, horizons)


def _norms(plan: Plan, network: Recaller) -> list[float]:
    longest = max(plan.lags)
    return list(norms(plan, network, longest, longest=longest * 5 // 4, warm_up=longest))


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


def _horizon(path: Path, examples: Path, lags: int) -> dict[str, Any]:
    """What `elman inspect --horizon` finds for the one output."""
    program = shutil.which("elman", path=str(Path(sys.executable).parent)) or "elman"
    command = [program, "inspect", str(path), "--horizon", "--examples", str(examples)]
    command += ["--lags", str(lags), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)["horizon"]
    [output] = found["outputs"]
    return {"rows": found["rows"], "lags": found["lags"], **output}


def _draw(
    plan: Plan,
    output: Path,
    right: Mapping[str, Mapping[int, list[float]]],
    gradients: Mapping[str, Mapping[str, list[float]]],
    horizons: Mapping[str, Any],
) -> None:
    at_prompts = {kind: {lag: each[lag] for lag in plan.lags} for kind, each in right.items()}
    pictures.accuracy(output / "horizon-accuracy.svg", at_prompts, 1 / len(LETTERS))
    pictures.gradient(output / "horizon-gradient.svg", gradients, max(plan.lags))
    curves = {kind: found["influence"] for kind, found in horizons.items()}
    title = "elman inspect --horizon, on the task's own streams"
    plot.draw(output / "horizon-influence.svg", curves, title)


def _tell(
    plan: Plan,
    right: Mapping[str, Mapping[int, list[float]]],
    gradients: Mapping[str, Mapping[str, list[float]]],
    horizons: Mapping[str, Any],
) -> None:
    longest = max(plan.lags)
    for kind, by_lag in right.items():
        shares = ", ".join(f"{lag}: {np.mean(by_lag[lag]):.1%}" for lag in plan.lags)
        before, after = (gradients[kind][when] for when in ("before", "after"))
        click.echo(
            f"{kind}: right by lag {shares}; elsewhere {np.mean(by_lag[0]):.1%}; gradient at lag "
            f"{longest} of that at 0: {before[longest] / before[0]:.1e} before training, "
            f"{after[longest] / after[0]:.1e} after; horizon {horizons[kind]['horizon']}"
        )


def _rounded(value: Any) -> Any:
    """Four figures say enough, and make a file that can be read."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    run()
