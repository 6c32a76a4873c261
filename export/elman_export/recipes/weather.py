"""`weather`: the next hour's temperature from the hours before, by a GRU.

The network reads only temperatures, and finds the hour of the day by itself. The network predicts
the change from the last hour, so training starts from persistence.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import elman_export
from elman_export.cli import command as cli
from elman_export.recipes import training
from elman_export.recipes.card import Card
from elman_export.recipes.source import packaged

SEED = 20
TRAIN, HELD_OUT = 0.70, 0.75
"""The series' first 70 % train, the next 5 % validate, the last quarter is held out."""

_HIDDEN = 64
_WINDOW = 24 * 7
_BATCH = 32
_STEPS = 4800
_DEMO_HOURS = 24 * 14


class Weather(nn.Module):
    """`[batch, time]` temperatures in °F to the next temperatures, `[batch, time]` in °F."""

    mean: Tensor
    scale: Tensor

    def __init__(self, *, mean: float, scale: float, hidden: int = _HIDDEN) -> None:
        """`mean` and `scale` normalise temperatures, both in °F."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        normal = (x - self.mean) / self.scale
        hidden, _ = self.gru(normal.unsqueeze(-1))
        change: Tensor = self.head(hidden).squeeze(-1)
        return x + self.scale * change


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """The errors of predictions against the measured values, in °F."""

    mean_absolute: float
    root_mean_square: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Hourly temperatures, with the times of measurement."""

    times: tuple[str, ...]
    values: np.ndarray
    """float32 `[time]`, °F."""


def read(path: Path) -> Series:
    """Reads a CSV with a header and the columns time and temperature in °F."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return Series(
        times=tuple(row[0] for row in rows),
        values=np.array([float(row[1]) for row in rows], np.float32),
    )


def errors(predictions: np.ndarray, truth: np.ndarray) -> Errors:
    """Compares predictions with the measured values, both `[time]`."""
    difference = predictions.astype(float) - truth
    return Errors(
        mean_absolute=float(np.abs(difference).mean()),
        root_mean_square=float(np.sqrt(np.square(difference).mean())),
    )


def persistence(values: np.ndarray, first: int) -> Errors:
    """The errors, from hour `first` on, if each hour is predicted to be like the hour before."""
    return errors(values[first - 1 : -1], values[first:])


def same_hour_yesterday(values: np.ndarray, first: int) -> Errors:
    """The errors, from hour `first` on, if each hour is predicted to be like 24 hours before."""
    return errors(values[first - 24 : -24], values[first:])


def train(values: np.ndarray) -> Weather:
    """Trains on the series' first part; returns the module that was best on the second part."""
    training.start(SEED)
    cut, end = int(len(values) * TRAIN), int(len(values) * HELD_OUT)
    series = torch.from_numpy(values)
    module = Weather(mean=float(series[:cut].mean()), scale=float(series[:cut].std()))
    descent = training.Descent(module, rate=6e-3, steps=_STEPS)
    best = training.Best()
    with training.progress("weather", _STEPS) as bar:
        for step in range(1, _STEPS + 1):
            window = _windows(series[:cut])
            predictions = module(window[:, :-1])
            descent.step(nn.functional.smooth_l1_loss(predictions, window[:, 1:], beta=0.5))
            bar.step()
            if step % 200:
                continue
            error = _stream(module, values[cut:end]).mean_absolute
            best.offer(module, error)
            bar.note(f"validation MAE {error:.3f} °F")
    best.restore(module)
    return module


def run(data: Path | None, output: Path) -> elman_export.Report:
    """Trains and measures, and writes `weather/` to `output`: model, card, two held-out weeks."""
    path = data or packaged("vega-datasets", "vega_datasets", "_data/seattle-temps.csv")
    series = read(path)
    module = train(series.values)
    first = int(len(series.values) * HELD_OUT)
    report = elman_export.export(
        module,
        output / "weather" / "1" / "model.onnx",
        input=elman_export.features(name="temperature_now"),
        outputs=[elman_export.values("temperature")],
        description="The next hour's temperature (°F) from the hours before, by a GRU",
        examples=series.values[None, first : first + _DEMO_HOURS],
    )
    held_out = series.values[first:]
    rows = (
        ("this model, from a fresh state", _stream(module, held_out)),
        ("persistence: like the last hour", persistence(series.values, first + 1)),
        ("same hour yesterday", same_hour_yesterday(series.values, first + 1)),
    )
    with (output / "weather" / "holdout.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("time", "temperature"))
        hours = slice(first, first + _DEMO_HOURS)
        for time, value in zip(series.times[hours], series.values[hours], strict=True):
            writer.writerow((time, f"{value:.1f}"))
    Card(
        title="weather: the next hour's temperature",
        does=(
            "Push the temperature of each hour in °F (input `temperature_now`, a float); "
            f"`temperature` is the prediction for the next hour, in °F. A GRU of {_HIDDEN} units "
            "that sees temperatures only, and finds the hour of the day by itself."
        ),
        measured=[
            (f"on the last quarter, {len(held_out) - 1:,} predictions", "MAE, °F", "RMSE, °F"),
            *((name, f"{e.mean_absolute:.3f}", f"{e.root_mean_square:.3f}") for name, e in rows),
        ],
        split=(
            "The first 70 % of the year trained (in windows of a week, shifted and stretched at "
            "random), the next 5 % chose among checkpoints, the last quarter, from "
            f"{series.times[first]} on, was held out. `holdout.csv` has its first two weeks."
        ),
        data=(
            "`seattle-temps` of [vega-datasets](https://github.com/vega/vega-datasets): "
            f"{len(series.values):,} hourly temperatures in Seattle in 2010, drawn from NOAA data, "
            "which is in the public domain (https://www.weather.gov/disclaimer)."
        ),
        limits=(
            "One place and one year, of smoothed readings: days are far more alike than real "
            "weather's. It needs about a day of hours to find the time of day."
        ),
        command="elman export weather --output DIR",
    ).write(output / "weather" / "README.md", report)
    return report


def _windows(series: Tensor) -> Tensor:
    """A random batch `[batch, window + 1]` from `series`: warmer or colder, calmer or wilder.

    The swings of each window are multiplied by 0.4 to 1.2, and the whole window is shifted by some
    5 °F. So the network must read the shape of the day from the days before; from the level alone,
    the network would take October for April.
    """
    starts = torch.randint(0, len(series) - _WINDOW, (_BATCH, 1))
    windows = series[starts + torch.arange(_WINDOW + 1)]
    mean = windows.mean(dim=1, keepdim=True)
    swing = 0.4 + 0.8 * torch.rand(_BATCH, 1)
    return (windows - mean) * swing + mean + 5.0 * torch.randn(_BATCH, 1)


def _stream(module: Weather, values: np.ndarray) -> Errors:
    """The errors in a session with input `values`, on all values except the first."""
    module.eval()
    with torch.no_grad():
        predictions = module(torch.from_numpy(values[None, :-1]))[0].numpy()
    module.train()
    return errors(predictions, values[1:])


if __name__ == "__main__":
    cli.export(["weather", *sys.argv[1:]])
