"""Scenes of the demo: each bundled model, and many sessions at once."""

import csv
import time
from collections.abc import Callable
from importlib import resources
from math import isfinite

import numpy as np
from rich.console import Console
from rich.text import Text

from elman import Client, Prediction, Top
from elman.cli.bar import bar
from elman.cli.demo.failure import require
from elman.cli.demo.figures import Work

_PHRASES = ("wonderful", "helpful", "helpless")
_KEY_SECONDS = 0.04
"""Seconds between two letters on a terminal, like a person typing. No pause elsewhere."""
_HOURS = 24
_PRIME = "\nROMEO:\n"
_LENGTH = 300
_CROWD = 64
_CHECKED = 4


def play(client: Client, console: Console) -> Work:
    """Plays every scene and returns the work requested from the server. Raises `DemoFailed`."""
    pause = time.sleep if console.is_terminal else lambda _: None
    work = sentiment(client, console, pause)
    work += weather(client, console)
    text, wrote = shakespeare(client, console)
    return work + wrote + crowd(client, console, text)


def sentiment(client: Client, console: Console, pause: Callable[[float], object]) -> Work:
    """Types phrases letter by letter."""
    _title(console, "sentiment", 'the probability of "positive" after every letter')
    for phrase in _PHRASES:
        console.print()
        with client.stream("sentiment") as stream:
            for position, letter in enumerate(phrase):
                prediction = stream.step(letter)
                probability = _number(prediction, "positive", position)
                require(0 <= probability <= 1, f"{probability} is no probability")
                typed = f"  {phrase[: position + 1]:<12}"
                console.print(Text.assemble(typed, bar(probability), f" {probability:.2f}"))
                pause(_KEY_SECONDS)
    return Work(sessions=len(_PHRASES), elements=sum(map(len, _PHRASES)))


def weather(client: Client, console: Console) -> Work:
    """Streams temperatures hour by hour, and compares each forecast with the true value."""
    _title(console, "weather", "the next hour's temperature in Seattle, from the hours before")
    times, truth = _holdout()
    with client.stream("weather") as stream:
        forecast = np.array(
            [
                _number(prediction, "temperature", position)
                for position, prediction in enumerate(stream.map(truth))
            ]
        )
    require(len(forecast) == len(truth), f"{len(forecast)} forecasts for {len(truth)} hours")
    console.print(f"\n  the last day of {len(truth)} hours: ● truth, ○ forecast an hour earlier\n")
    # The forecast at hour i is for hour i + 1; the last forecast lies beyond the series.
    ahead, came = forecast[:-1], truth[1:]
    low, high = came[-_HOURS:].min() - 2, came[-_HOURS:].max() + 2
    for when, predicted, true in list(zip(times[1:], ahead, came, strict=True))[-_HOURS:]:
        track = _track((true - low) / (high - low), (predicted - low) / (high - low))
        console.print(Text.assemble(f"  {when}  {true:5.1f} °F  {predicted:5.1f} °F  ", track))
    error = np.abs(ahead - came).mean()
    persistence = np.abs(truth[:-1] - came).mean()
    console.print(
        f"\n  mean error over {len(came)} hours: {error:.2f} °F; "
        f'"like the last hour" is {persistence:.2f} °F off'
    )
    return Work(sessions=1, elements=len(truth))


def shakespeare(client: Client, console: Console) -> tuple[str, Work]:
    """Generates a text letter by letter, and returns the text."""
    _title(console, "shakespeare", f"{_LENGTH} letters, each the last one's consequence")
    (output,) = client.model("shakespeare").outputs
    console.print()
    console.print(_PRIME.strip())
    written = ""
    with client.stream("shakespeare", outputs=Top(output.name, 20)) as stream:
        for letter in stream.generate(_PRIME, length=_LENGTH, temperature=0.7, seed=7):
            written += letter
            console.print(letter, end="", markup=False)
    console.print()
    require(len(written) == _LENGTH, f"{len(written)} letters were written, not {_LENGTH}")
    return written, Work(sessions=1, elements=len(_PRIME) + _LENGTH)


def crowd(client: Client, console: Console, text: str) -> Work:
    """Pushes to many sessions in turn, letter by letter, and compares some sessions with solo
    runs."""
    _title(console, f"{_CROWD} sessions at once", "each a letter at a time, batched by the server")
    (output,) = client.model("shakespeare").outputs
    texts = [text[i:] + text[:i] for i in range(_CROWD)]
    answers: list[list[np.ndarray]] = [[] for _ in texts]
    started = time.perf_counter()
    streams = [client.stream("shakespeare") for _ in texts]
    for position in range(len(text)):
        for stream, letters in zip(streams, texts, strict=True):
            stream.push(letters[position])
        for stream, answer in zip(streams, answers, strict=True):
            answer.append(next(stream)[output.name])
    seconds = time.perf_counter() - started
    for stream in streams:
        stream.close()
        require(next(stream, None) is None, "a closed session was answered")
    for letters, answer in list(zip(texts, answers, strict=True))[:_CHECKED]:
        alone = client.predict("shakespeare", letters)[output.name]
        require(np.array_equal(alone, np.stack(answer)), "a session differs from its solo run")
    elements = _CROWD * len(text)
    console.print(
        f"\n  {elements:,} letters in {seconds:.1f} s: {elements / seconds:,.0f} a second, and "
        f"{_CHECKED} of them compared with\n  themselves alone: equal to the last bit"
    )
    return Work(sessions=_CROWD + _CHECKED, elements=elements + _CHECKED * len(text))


def _title(console: Console, name: str, what: str) -> None:
    console.print(Text.assemble("\n", (name, "bold cyan"), f": {what}"))


def _number(prediction: Prediction, name: str, position: int) -> float:
    """A scalar output of a prediction, after a check of the prediction's position."""
    require(
        prediction.position == position,
        f"position {prediction.position} was answered; expected was {position}",
    )
    value = float(prediction[name])
    require(isfinite(value), f"{name} is {value} at position {position}")
    return value


def _holdout() -> tuple[list[str], np.ndarray]:
    """Times and temperatures (°F) outside the weather model's training data."""
    file = resources.files("elman_server") / "models" / "weather" / "holdout.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    return [row["time"] for row in rows], np.array([float(row["temperature"]) for row in rows])


def _track(truth: float, forecast: float, width: int = 32) -> Text:
    """Draws two marks on a line from 0 to 1."""
    cells = Text("·" * width, "dim")
    marks = {min(width - 1, max(0, round(forecast * width))): ("○", "yellow")}
    at = min(width - 1, max(0, round(truth * width)))
    marks[at] = ("◉" if at in marks else "●", "green")
    return Text.assemble(
        *(marks[i] if i in marks else (cells.plain[i], "dim") for i in range(width))
    )
