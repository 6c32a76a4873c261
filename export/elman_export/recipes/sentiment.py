"""`sentiment`: the probability of a positive feeling after every letter of a phrase, by an LSTM."""

import random
import string
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import elman_export
from elman_export.cli import command as cli
from elman_export.recipes import lexicon, training
from elman_export.recipes.card import Card
from elman_export.recipes.lexicon import Phrase, Word
from elman_export.recipes.source import packaged

SEED = 5
ALPHABET = " '-" + string.ascii_lowercase
"""The letters that the network distinguishes: the graph folds upper case to lower case."""
VOCABULARY = ALPHABET + string.ascii_uppercase

_EMBEDDING, _HIDDEN = 32, 160
_DROPOUT = 0.4
_BATCH = 128
_EPOCHS = 30
_LAST_LETTER = 1.5
"""The weight of the probability after a word's last letter; other letters weigh at most 1."""
_EVERYDAY = 10
"""The number of copies of each everyday word in training; other words have a single copy."""
_TYPOS = 0.04
"""The share of letters replaced by random letters in training."""


class Sentiment(nn.Module):
    """`[batch, time]` letter ids (of `VOCABULARY`) to probabilities, `[batch, time]`."""

    folded: Tensor

    def __init__(self) -> None:
        super().__init__()
        folded = [ALPHABET.index(letter.lower()) for letter in VOCABULARY]
        self.register_buffer("folded", torch.tensor(folded))
        self.embedding = nn.Embedding(len(ALPHABET), _EMBEDDING)
        self.lstm = nn.LSTM(_EMBEDDING, _HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(_HIDDEN, 1)

    def logits(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(self.embedding(self.folded[x])))
        logits: Tensor = self.head(self.dropout(hidden)).squeeze(-1)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


def encode(texts: Sequence[str]) -> Tensor:
    """Letter ids `[text, longest]`; shorter texts are padded with spaces at the end."""
    longest = max(len(text) for text in texts)
    return torch.tensor([[VOCABULARY.index(c) for c in text.ljust(longest)] for text in texts])


def accuracy(module: Sentiment, words: Sequence[Word]) -> float:
    """The share of words judged correctly after the last letter, each word in its own session."""
    module.eval()
    with torch.no_grad():
        probabilities = module(encode([word.text for word in words]))
    module.train()
    right = [
        bool(row[len(word.text) - 1] > 0.5) == word.positive
        for row, word in zip(probabilities, words, strict=True)
    ]
    return sum(right) / len(right)


def train(words: lexicon.Lexicon) -> tuple[Sentiment, float]:
    """Trains for a fixed number of epochs; returns the module and the validation accuracy."""
    training.start(SEED)
    module = Sentiment()
    per_epoch = 2 * len(words.train) // _BATCH
    steps = per_epoch * _EPOCHS
    descent = training.Descent(module, rate=3e-3, steps=steps)
    batches = _batches(words.train, random.Random(SEED))
    validation = 0.0
    with training.progress("sentiment", steps) as bar:
        for _ in range(_EPOCHS):
            for _ in range(per_epoch):
                descent.step(_loss(module, next(batches)))
                bar.step()
            validation = accuracy(module, words.validation)
            bar.note(f"validation accuracy {validation:.3f}")
    return module, validation


def run(data: Path | None, output: Path) -> elman_export.Report:
    """Trains, measures, and writes `sentiment/` to `output`; `data` is a `vader_lexicon.txt`."""
    path = data or packaged("vaderSentiment", "vaderSentiment", "vader_lexicon.txt")
    words = lexicon.split(lexicon.read(path), seed=SEED)
    module, validation = train(words)
    parts = (words.train, words.validation, words.test)
    held_out = random.Random(SEED).sample(words.test, 64)
    report = elman_export.export(
        module,
        output / "sentiment" / "1" / "model.onnx",
        input=elman_export.text(VOCABULARY, unknown=" ", name="letter"),
        outputs=[elman_export.probabilities("positive")],
        description="The probability of a positive feeling after every letter, by an LSTM",
        examples=encode([word.text for word in held_out]).numpy(),
    )
    Card(
        title="sentiment: letters to a feeling",
        does=(
            "Push a word or a phrase, letter by letter (input `letter`: A to Z in either case, "
            "space, apostrophe and hyphen; anything else counts as a space). After every letter, "
            "`positive` is the probability that what was written so far feels positive. An LSTM of "
            f"{_HIDDEN} units."
        ),
        measured=[
            ("accuracy by word, after its last letter", "validation", "test"),
            ("this model", f"{validation:.1%}", f"{accuracy(module, words.test):.1%}"),
            (
                "always the commoner class",
                f"{lexicon.majority(words.validation):.1%}",
                f"{lexicon.majority(words.test):.1%}",
            ),
        ],
        split=(
            "Words are split by family, so that no inflection or derivation of a held-out word was "
            f"trained on: {len(words.train):,} train, {len(words.validation)} validate (they chose "
            f"sizes and rates), {len(words.test)} are the test. A family is all words that share a "
            "stem after common suffixes are cut off (`elman_export.recipes.lexicon.stems`); words "
            "with another prefix (un-, dis-) are another family. The families of "
            f"{len(lexicon.EVERYDAY)} everyday words (good, bad, ...) always train. Of the words "
            f"that it was trained on, it gets {accuracy(module, words.train):.1%} right."
        ),
        data=(
            "The lexicon of [VADER](https://github.com/cjhutto/vaderSentiment) 3.3.2 (MIT licence; "
            f"Hutto and Gilbert, ICWSM 2014): {sum(map(len, parts)):,} of its tokens, those made "
            "of letters, apostrophes, hyphens and spaces, each rated by ten people from -4 to 4; a "
            "word is positive where their mean is over 0. Phrases of one to five words are put "
            "together at random in training, some with words that the lexicon does not have, "
            "negated or emphasised; their scores add up, by VADER's constants."
        ),
        limits=(
            "It has seen words and random phrases, never a sentence: no grammar, no irony, English "
            "only. Words that it never saw it judges by their parts, and is often wrong. The "
            "lexicon's ratings are those of ten people of 2014, offensive words among them."
        ),
        command="elman export sentiment --output DIR",
    ).write(output / "sentiment" / "README.md", report)
    return report


def _batches(words: Sequence[Word], rng: random.Random) -> Iterator[list[Phrase]]:
    """Endless batches, alternately of words and of phrases."""
    everyday = [word for word in words if word.text in lexicon.EVERYDAY]
    words = [*words, *everyday * (_EVERYDAY - 1)]
    singles = [lexicon.alone(word) for word in words]
    phrases = lexicon.phrases(words, rng)
    while True:
        rng.shuffle(singles)
        for start in range(0, len(singles) - _BATCH + 1, _BATCH):
            yield singles[start : start + _BATCH]
            yield [next(phrases) for _ in range(_BATCH)]


def _loss(module: Sentiment, batch: Sequence[Phrase]) -> Tensor:
    """Cross entropy after every letter; a word's later letters weigh more."""
    letters = encode([phrase.text for phrase in batch])
    typos = torch.rand(letters.shape) < _TYPOS
    letters = torch.where(typos, torch.randint_like(letters, len(ALPHABET)), letters)
    logits = module.logits(letters)
    targets = torch.full(logits.shape, 0.5)
    weights = torch.zeros(logits.shape)
    for row, phrase in enumerate(batch):
        targets[row, : len(phrase.text)] = torch.tensor(phrase.probabilities)
        weights[row, : len(phrase.text)] = torch.tensor(_weights(phrase.text))
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def _weights(text: str) -> list[float]:
    """The weight of each letter's probability: larger as more of the word is known.

    After a word's last letter, the whole word is known; the accuracy is measured there.
    """
    weights: list[float] = []
    for word in text.split(" "):
        share = [(number + 1) / len(word) for number in range(len(word))]
        weights += [0.1 + 0.9 * known for known in share[:-1]] + [_LAST_LETTER, 1.0]
    return weights[:-1]


if __name__ == "__main__":
    cli.export(["sentiment", *sys.argv[1:]])
