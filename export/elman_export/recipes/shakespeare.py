"""`shakespeare`: the next character of a text, by two LSTM layers. Any text file will do.

Training carries the state along the text, as serving does, and cuts gradients every 100 characters.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import elman_export
from elman_export.cli import command as cli
from elman_export.errors import ExportError
from elman_export.recipes import training
from elman_export.recipes.card import Card

SEED = 1
TRAIN, VALIDATION = 0.90, 0.95
"""The text's first 90 % train, the next 5 % validate, the last 5 % test."""

_EMBEDDING, _HIDDEN, _LAYERS = 64, 160, 2
_DROPOUT = 0.25
_EPOCHS = 34
_BATCH, _CHUNK = 32, 100

State = tuple[Tensor, Tensor]


class CharacterModel(nn.Module):
    """`[batch, time]` character ids to the logits of the next ids, `[batch, time, vocabulary]`."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _EMBEDDING)
        self.lstm = nn.LSTM(_EMBEDDING, _HIDDEN, _LAYERS, batch_first=True, dropout=_DROPOUT)
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(_HIDDEN, vocabulary)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        hidden, state = self.lstm(self.embedding(x), state)
        return self.head(self.dropout(hidden)), state


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text as character ids, in three parts."""

    vocabulary: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def unigram_perplexity(self) -> float:
        """The perplexity of the test part, by each character's frequency in the training part."""
        counts = np.bincount(self.train, minlength=len(self.vocabulary)) + 1
        return float(np.exp(-np.log(counts / counts.sum())[self.test[1:]].mean()))


def split(text: str) -> Text:
    """Cuts a text into three parts; the vocabulary is the text's characters, sorted."""
    vocabulary = tuple(sorted(set(text)))
    index = {character: number for number, character in enumerate(vocabulary)}
    ids = np.array([index[character] for character in text])
    train, validation, test = np.split(ids, [int(len(ids) * TRAIN), int(len(ids) * VALIDATION)])
    return Text(vocabulary=vocabulary, train=train, validation=validation, test=test)


def perplexity(module: CharacterModel, ids: np.ndarray) -> float:
    """The perplexity of all characters except the first, in a single run from a fresh state."""
    module.eval()
    with torch.no_grad():
        logits, _ = module(torch.from_numpy(ids[None, :-1]))
        loss = nn.functional.cross_entropy(logits[0], torch.from_numpy(ids[1:]))
    module.train()
    return math.exp(loss.item())


def train(text: Text) -> tuple[CharacterModel, float]:
    """Trains; returns the module of the best epoch and the validation perplexity."""
    training.start(SEED)
    module = CharacterModel(len(text.vocabulary))
    ids = torch.from_numpy(text.train)
    chunks = ((len(ids) - _CHUNK - 1) // _BATCH - 1) // _CHUNK
    steps = chunks * _EPOCHS
    descent = training.Descent(module, rate=4e-3, steps=steps)
    best = training.Best()
    with training.progress("shakespeare", steps) as bar:
        for _ in range(_EPOCHS):
            state: State | None = None
            # A new offset in each epoch: constant offsets would teach the beginnings of chunks.
            offset = int(torch.randint(0, _CHUNK, ()))
            for x, y in _chunks(ids, offset, chunks):
                logits, state = module(x, state)
                state = (state[0].detach(), state[1].detach())
                descent.step(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))
                bar.step()
            validation = perplexity(module, text.validation)
            best.offer(module, validation)
            bar.note(f"validation perplexity {validation:.3f}")
    best.restore(module)
    return module, best.score


def run(data: Path | None, output: Path) -> elman_export.Report:
    """Trains on the text `data`, measures, and writes `shakespeare/` to `output`.

    Raises `ExportError` without a text, or with a text too short to split.
    """
    if data is None:
        raise ExportError(
            "no text is given: pass any text file with --data (the bundled model's is tiny "
            "Shakespeare, https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare)"
        )
    text = split(data.read_text(encoding="utf-8"))
    if len(text.validation) < _BATCH * _CHUNK:
        raise ExportError(f"{data} is too short: it takes {20 * _BATCH * _CHUNK:,} characters")
    module, validation = train(text)
    report = elman_export.export(
        module,
        output / "shakespeare" / "1" / "model.onnx",
        input=elman_export.text(text.vocabulary, name="character"),
        outputs=[elman_export.logits("next", labels=text.vocabulary)],
        description=f"The next character in the manner of {data.stem}, by two LSTM layers",
        examples=text.validation[: 8 * _CHUNK].reshape(8, _CHUNK),
    )
    Card(
        title="shakespeare: the next character",
        does=(
            f"Push text (input `character`: {len(text.vocabulary)} of them, others are refused); "
            "`next` are the logits of the character that follows. "
            f"{_LAYERS} LSTM layers of {_HIDDEN} units over a {_EMBEDDING}-wide embedding."
        ),
        measured=[
            ("perplexity a character", "validation", "test"),
            ("this model", f"{validation:.3f}", f"{perplexity(module, text.test):.3f}"),
            ("frequencies of the characters", "", f"{text.unigram_perplexity:.2f}"),
        ],
        split=(
            "The text's first 90 % trained, the next 5 % chose the epoch, the last 5 % are the "
            "test. Each part is read in one go from a fresh state."
        ),
        data=(
            "Tiny Shakespeare: 1,115,394 characters of plays, as Andrej Karpathy put them together "
            "for [char-rnn](https://github.com/karpathy/char-rnn). The plays are in the public "
            "domain; the text is not part of this repository."
        ),
        limits="Forty thousand lines make spelling and layout, not sense.",
        command="elman export shakespeare --data tinyshakespeare.txt --output DIR",
    ).write(output / "shakespeare" / "README.md", report)
    return report


def _chunks(ids: Tensor, offset: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and the characters that follow, `[batch, chunk]` each; rows continue from chunk to
    chunk.
    """
    length = (len(ids) - _CHUNK - 1) // _BATCH
    rows = ids[offset : offset + _BATCH * length].view(_BATCH, length)
    following = ids[offset + 1 : offset + 1 + _BATCH * length].view(_BATCH, length)
    for start in range(0, count * _CHUNK, _CHUNK):
        yield rows[:, start : start + _CHUNK], following[:, start : start + _CHUNK]


if __name__ == "__main__":
    cli.export(["shakespeare", *sys.argv[1:]])
