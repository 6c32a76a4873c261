"""The models that come with the server are what their cards say."""

import csv
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from elman_export.recipes import lexicon, sentiment, shakespeare, weather
from elman_export.recipes.source import packaged
from elman_server.model import modelfile
from elman_server.model.spec import InputKind, ModelSpec, OutputKind

MODELS = Path(str(files("elman_server"))) / "models"
NAMES = ("sentiment", "shakespeare", "weather")

TEXT = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.
"""
"""Coriolanus, act I, scene 1: in the public domain, and in the part that the model trained on."""


class Bundled:
    """A bundled model, run over whole sequences from a fresh state."""

    def __init__(self, name: str) -> None:
        path = MODELS / name / "1" / "model.onnx"
        self.spec: ModelSpec = modelfile.read(path).spec
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, x: np.ndarray, lengths: Sequence[int] | None = None) -> np.ndarray:
        """The first output for `x [batch, time]`."""
        feed = {
            state.input: np.stack([state.initial_value()] * len(x), axis=state.batch_axis)
            for state in self.spec.states
        }
        feed[self.spec.input.name] = x
        feed["lengths"] = np.array(lengths or [x.shape[1]] * len(x), np.int32)
        result: np.ndarray = self._session.run([self.spec.outputs[0].name], feed)[0]
        return result

    def text(self, text: str) -> np.ndarray:
        vocabulary = self.spec.input.vocabulary
        result: np.ndarray = self(np.array([[vocabulary.index(letter) for letter in text]]))[0]
        return result


def card(name: str) -> str:
    text: str = (MODELS / name / "README.md").read_text(encoding="utf-8")
    return text


def figures(name: str, row: str) -> list[float]:
    """The numbers in the row of the card's table that begins with `row`."""
    line = next(line for line in card(name).splitlines() if line.startswith(f"| {row}"))
    return [float(number) for number in re.findall(r"\| ([\d.]+)%?(?= )", line)]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_is_small_and_reads_back(name: str) -> None:
    path = MODELS / name / "1" / "model.onnx"
    assert path.stat().st_size <= 1_500_000
    file = modelfile.read(path)
    assert file.spec.description
    assert file.spec.lengths == "lengths"
    assert f"{path.stat().st_size:,} bytes" in card(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_when_and_how(name: str) -> None:
    text = card(name)
    assert f"elman export {name}" in text
    assert re.search(r"on 20\d\d-\d\d-\d\d: ", text)
    for section in ("## Measured", "## Data", "## Limits", "## Made by"):
        assert section in text
    assert re.search(r"licen[cs]e|public domain", text)


def test_sentiment_takes_letters_of_either_case_and_anything_else_as_a_space() -> None:
    spec = Bundled("sentiment").spec
    assert spec.input.kind is InputKind.TEXT
    assert spec.input.unknown == spec.input.vocabulary.index(" ")
    assert spec.outputs[0].kind is OutputKind.PROBABILITIES
    assert spec.outputs[0].shape == ()
    model = Bundled("sentiment")
    np.testing.assert_array_equal(model.text("Wonderful"), model.text("wonderful"))


def test_sentiment_is_as_good_on_held_out_words_as_its_card_says() -> None:
    model = Bundled("sentiment")
    path = packaged("vaderSentiment", "vaderSentiment", "vader_lexicon.txt")
    words = lexicon.split(lexicon.read(path), seed=sentiment.SEED).test
    lengths = [len(word.text) for word in words]
    ids = sentiment.encode([word.text for word in words]).numpy()
    last = model(ids, lengths)[np.arange(len(words)), np.array(lengths) - 1]
    right = np.mean([p > 0.5 for p in last] == np.array([word.positive for word in words]))
    assert right * 100 == pytest.approx(figures("sentiment", "this model")[-1], abs=0.1)
    assert right > lexicon.majority(words) + 0.1


@pytest.mark.parametrize(
    ("phrase", "positive"),
    [
        ("wonderful", True),
        ("good", True),
        ("love", True),
        ("happy", True),
        ("terrible", False),
        ("bad", False),
        ("hate", False),
        ("sad", False),
        ("what a wonderful day", True),
        ("the food was terrible", False),
    ],
)
def test_sentiment_knows_everyday_words(phrase: str, positive: bool) -> None:
    probabilities = Bundled("sentiment").text(phrase)
    assert (probabilities[-1] > 0.55) if positive else (probabilities[-1] < 0.45)
    assert np.ptp(probabilities) > 0.1


def perplexity(logits: np.ndarray, following: np.ndarray) -> float:
    logits = logits.astype(float)
    total = np.log(np.exp(logits).sum(axis=-1))
    return float(np.exp(np.mean(total - logits[np.arange(len(following)), following])))


def test_shakespeare_predicts_shakespeare() -> None:
    model = Bundled("shakespeare")
    output = model.spec.outputs[0]
    assert output.kind is OutputKind.LOGITS
    assert output.labels == model.spec.input.vocabulary
    following = np.array([output.labels.index(letter) for letter in TEXT[1:]])
    assert perplexity(model.text(TEXT[:-1]), following) < 5
    assert perplexity(model.text(TEXT[:0:-1]), following[::-1] * 0) > 20


@pytest.mark.skipif("ELMAN_SHAKESPEARE_TEXT" not in os.environ, reason="needs the text")
def test_shakespeare_is_as_good_as_its_card_says() -> None:
    model = Bundled("shakespeare")
    path = Path(os.environ["ELMAN_SHAKESPEARE_TEXT"])
    text = shakespeare.split(path.read_text(encoding="utf-8"))
    assert text.vocabulary == model.spec.input.vocabulary
    measured = [
        perplexity(model(ids[None, :-1])[0], ids[1:]) for ids in (text.validation, text.test)
    ]
    assert measured == pytest.approx(figures("shakespeare", "this model"), abs=1e-3)
    assert measured[0] < 4.33  # what two layers of 128 reached in others' hands


def test_weather_beats_its_baselines_on_the_held_out_quarter_as_its_card_says() -> None:
    model = Bundled("weather")
    path = packaged("vega-datasets", "vega_datasets", "_data/seattle-temps.csv")
    values = weather.read(path).values
    first = int(len(values) * weather.HELD_OUT)
    fresh = weather.errors(model(values[None, first:-1])[0], values[first + 1 :])
    assert [fresh.mean_absolute, fresh.root_mean_square] == pytest.approx(
        figures("weather", "this model, from a fresh state"), abs=1e-3
    )
    for baseline in (weather.persistence, weather.same_hour_yesterday):
        errors = baseline(values, first + 1)
        assert fresh.mean_absolute < errors.mean_absolute
        assert fresh.root_mean_square < errors.root_mean_square


def test_weathers_two_weeks_are_of_the_held_out_quarter() -> None:
    path = packaged("vega-datasets", "vega_datasets", "_data/seattle-temps.csv")
    series = weather.read(path)
    first = int(len(series.values) * weather.HELD_OUT)
    with (MODELS / "weather" / "holdout.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 * 24
    assert [row["time"] for row in rows] == list(series.times[first : first + len(rows)])
    np.testing.assert_allclose(
        [float(row["temperature"]) for row in rows], series.values[first : first + len(rows)]
    )
