"""Horizon part of `elman inspect`: measures and shows how far back a network remembers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from elman_server.inspection.horizon import plot as picture
from elman_server.inspection.horizon.influence import THRESHOLD, HorizonError, Influence
from elman_server.inspection.horizon.measure import measure
from elman_server.inspection.horizon.sample import (
    LAGS,
    MOST_LAGS,
    ROWS,
    ExamplesError,
    Sample,
    random_sample,
    read_examples,
    sample_of,
)
from elman_server.inspection.trial import Trial

_ROWS_ALONE = 32
"""Rows measured for a network without batches."""
_CONTEXTS = 8


def lags_option(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | str | None:
    """Parses `--lags`: a longest lag, or `max`. A click callback."""
    if value is None or value == "max":
        return value
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= MOST_LAGS:
        raise click.BadParameter(f"{value!r} is no lag; allowed are 1 to {MOST_LAGS} and max")
    return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Request for a horizon measurement."""

    examples: Path | None
    lags: int | str | None
    plot: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """Results of a horizon measurement."""

    examples: Path | None
    contexts: int
    """Number of random contexts, distributed over the rows in turn."""
    sample: Sample
    influences: Sequence[Influence]


def request(
    *, horizon: bool, examples: Path | None, lags: int | str | None, plot: Path | None
) -> Recall | None:
    """Checks the options before the model runs. Returns None without `--horizon`."""
    if not horizon:
        for option, value in (("examples", examples), ("lags", lags), ("plot", plot)):
            if value is not None:
                raise click.UsageError(f"--{option} goes with --horizon")
        return None
    if plot is not None and plot.suffix.lower() not in picture.SUFFIXES:
        allowed = " or ".join(picture.SUFFIXES)
        raise click.UsageError(
            f"--plot is {str(plot)!r}; expected is a file that ends in {allowed}"
        )
    if plot is not None and not picture.is_available():
        extra = picture.EXTRA
        raise click.UsageError(f"--plot needs the {extra} extra: pip install 'elman[{extra}]'")
    return Recall(examples=examples, lags=lags, plot=plot)


def measured(recall: Recall, trial: Trial) -> Recalled:
    """Measures the horizon. Raises `ClickException` for invalid examples, predictions that are not
    finite, and failed steps."""
    rows = ROWS if trial.is_batched else _ROWS_ALONE
    lags = recall.lags if isinstance(recall.lags, int) else None
    at_most = MOST_LAGS if recall.lags == "max" else LAGS
    spec = trial.model.spec.input
    try:
        if recall.examples is None:
            sample = random_sample(spec, lags=lags or at_most, rows=rows)
        else:
            sequences = read_examples(spec, recall.examples)
            source = str(recall.examples)
            sample = sample_of(spec, sequences, source, lags=lags, at_most=at_most, rows=rows)
        contexts = trial.contexts(_CONTEXTS)
        influences = measure(trial.model, sample, trial.step_size, contexts)
    except (ExamplesError, HorizonError) as error:
        raise click.ClickException(str(error)) from None
    return Recalled(
        examples=recall.examples,
        contexts=_CONTEXTS if contexts else 0,
        sample=sample,
        influences=influences,
    )


def document(recalled: Recalled) -> dict[str, object]:
    """Returns the results as a JSON document, for scripts."""
    sample = recalled.sample
    return {
        "input": "random" if recalled.examples is None else "examples",
        "examples": None if recalled.examples is None else str(recalled.examples),
        "random_contexts": recalled.contexts,
        "perturbation": sample.perturbation,
        "rows": len(sample.elements),
        "warm_up": sample.warm_up,
        "lags": sample.lags,
        "threshold": THRESHOLD,
        "outputs": [
            {
                "output": each.output,
                "distance": each.distance,
                "reference_lag": each.reference,
                "reference_influence": each.absolute,
                "influence": each.relative,
                "horizon": each.horizon,
            }
            for each in recalled.influences
        ],
    }


def tables(recalled: Recalled) -> Iterator[RenderableType]:
    """Yields, for each output, a headline, a table and the conditions of the measurement."""
    sample = recalled.sample
    for each in recalled.influences:
        yield Text(f"\nhorizon of {each.output}: {verdict(each)}", style="bold")
        table = Table()
        for column in ("lag", "influence", "largest from there on"):
            table.add_column(column, justify="right")
        for lag in _shown(sample.lags):
            largest = each.largest_from(lag)
            table.add_row(f"{lag:,}", _percent(each.relative[lag]), _percent(largest))
        yield table
        facts = Table.grid(padding=(0, 2))
        facts.add_row("input", f"{sample.source}, {sample.warm_up} elements before the change")
        if recalled.contexts:
            facts.add_row("contexts", f"{recalled.contexts} random ones, taken in turn")
        facts.add_row("change", f"{len(sample.elements)} times, {sample.perturbation}")
        facts.add_row("influence", f"{each.distance}; {each.absolute:.3g} is 100 %")
        yield facts


def verdict(influence: Influence) -> str:
    """Returns the horizon in words."""
    last = len(influence.relative) - 1
    if not influence.absolute:
        return f"no element has any influence, at any lag up to {last:,}"
    if influence.horizon is None:
        left = _percent(influence.largest_from(last))
        return f"beyond {last:,}; at lag {last:,}, {left} of an element's influence is left"
    lags = "lag" if influence.horizon == 1 else "lags"
    return f"{influence.horizon:,} {lags}; from there on, influence is under 1 %"


def draw(path: Path, recalled: Recalled, model: Path) -> None:
    curves = {f"{each.output}: {_short(each)}": each.relative for each in recalled.influences}
    picture.draw(path, curves, f"{_name(model)}, on {recalled.sample.source}")


def _short(influence: Influence) -> str:
    last = len(influence.relative) - 1
    if influence.horizon is None:
        return f"remembers beyond {last:,}"
    return f"under 1 % from lag {influence.horizon:,} on"


def _name(model: Path) -> str:
    """Returns a model's name. In a repository, the model's path is NAME/VERSION/model.onnx."""
    in_repository = model.name == "model.onnx" and model.absolute().parent.name.isdigit()
    return model.absolute().parent.parent.name if in_repository else model.name


def _shown(lags: int) -> Sequence[int]:
    powers = [2**power for power in range(lags.bit_length())]
    return sorted({0, *powers, lags})


def _percent(share: float) -> str:
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.1f} %" if share >= 0.1 else f"{100 * share:.2f} %"
