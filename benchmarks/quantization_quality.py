"""What int8 costs in quality: the bundled models' own figures, before and after.

Perplexity needs the text that a model was trained on; `train` makes a larger character model of it
than those that are bundled.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import elman_export
from elman_export.recipes import lexicon, sentiment, shakespeare, training, weather
from elman_export.recipes.source import packaged
from elman_server.model.spec import ModelSpec
from elman_server.runner.ort import onnxruntime

_EMBEDDING, _LAYERS = 64, 2
_BATCH, _CHUNK = 32, 64
_ROUNDS = 100_000
"""Steps of the schedule, which the clock cuts off."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a model's task."""

    name: str
    measure: Callable[["Whole"], float]


class Whole:
    """A step model, run over whole sequences from a fresh state."""

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec) -> None:
        self.spec = spec
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The first output for `x [batch, time]`."""
        feed = {
            state.input: np.stack([state.initial_value()] * len(x), axis=state.batch_axis)
            for state in self.spec.states
        }
        feed[self.spec.input.name] = x
        if self.spec.lengths is not None:
            feed[self.spec.lengths] = np.full(len(x), x.shape[1], np.int32)
        result: np.ndarray = self._session.run([self.spec.outputs[0].name], feed)[0]
        return result


def measures(text: Path | None, holdout: Path) -> Mapping[str, Measure]:
    """By bundled model; `text` is what `shakespeare` was trained on, `holdout` a file of hours."""
    found = {
        "sentiment": Measure("accuracy", _accuracy),
        "weather": Measure("MAE, °F", lambda model: _error(model, weather.read(holdout).values)),
    }
    if text is not None:
        found["shakespeare"] = perplexity(text)
    return found


def perplexity(text: Path) -> Measure:
    """On the part of a text that chose among epochs."""
    parts = shakespeare.split(text.read_text(encoding="utf-8"))
    return Measure("perplexity", lambda model: _perplexity(model, parts.validation))


def _perplexity(model: Whole, ids: np.ndarray) -> float:
    logits = model(ids[None, :-1])[0].astype(float)
    total = np.log(np.exp(logits).sum(axis=-1))
    return float(np.exp(np.mean(total - logits[np.arange(len(logits)), ids[1:]])))


def _accuracy(model: Whole) -> float:
    path = packaged("vaderSentiment", "vaderSentiment", "vader_lexicon.txt")
    words = lexicon.split(lexicon.read(path), seed=sentiment.SEED).test
    last = np.array([len(word.text) - 1 for word in words])
    found = model(sentiment.encode([word.text for word in words]).numpy())
    right = (found[np.arange(len(words)), last] > 0.5) == [word.positive for word in words]
    return float(right.mean())


def _error(model: Whole, values: np.ndarray) -> float:
    return weather.errors(model(values[None, :-1])[0], values[1:]).mean_absolute


class _Characters(nn.Module):
    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _EMBEDDING)
        self.lstm = nn.LSTM(_EMBEDDING, hidden, _LAYERS, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(x))
        result: Tensor = self.head(hidden)
        return result


def train(text: Path, hidden: int, seconds: float, path: Path) -> None:
    """Trains a character model for a while and writes its step model to `path`."""
    parts = shakespeare.split(text.read_text(encoding="utf-8"))
    training.start(shakespeare.SEED)
    module = _Characters(len(parts.vocabulary), hidden)
    ids = torch.from_numpy(parts.train)
    descent = training.Descent(module, rate=3e-3, steps=_ROUNDS, warmup=50)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        starts = torch.randint(0, len(ids) - _CHUNK - 1, (_BATCH, 1))
        window = ids[starts + torch.arange(_CHUNK + 1)]
        logits = module(window[:, :-1])
        descent.step(nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()))
    elman_export.export(
        module,
        path,
        input=elman_export.text(parts.vocabulary),
        outputs=[elman_export.logits("next", labels=parts.vocabulary)],
    )
