"""VADER's lexicon of words and feelings, in families of inflections, and random phrases.

The rules for negation and emphasis are VADER's (Hutto and Gilbert, ICWSM 2014), in their simplest
form. This module knows no network.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

_WORD = re.compile(r"[a-z]+(?:[' -][a-z]+)*")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NEGATIONS = _words("not never isn't wasn't don't can't won't hardly")
EMPHASIS = _words("very really so extremely incredibly absolutely")

NEUTRAL = _words(
    """
    a an the this that these it its is was are were be been i you he she we they my your his her
    our their me him us them and or then to of in on at for with from by about as who what which
    when where how there here have has had do did does will would can could should just still
    also only even all some every one two day days night time year people man woman child
    family house home room table city street world work job book movie film story song music
    food dinner coffee car train weather service place thing things word way life end part
    morning school game go went come came see saw make made take took get got say said think
    thought feel felt look looked find found know
    """
)
"""Common words missing from the lexicon."""

EVERYDAY = _words(
    """
    amazing awful bad beautiful best boring delicious disappointing enjoy excellent fear fun
    good great happy hate horrible hope like love nice sad terrible thank ugly wonderful worst
    """
)
"""Words whose families are never held out."""

SUFFIXES = _words(
    """
    s es ed d er ers r rs est ing ings li ness nesses ful fulli fulness less lessli lessness
    able abli abiliti ment ments ion ions ive iveli al alli ist ists ism iti ous ousli ic ical
    icalli i ish
    """
)
"""Suffixes of English inflection and derivation, with `y` as `i`."""

_NEGATED = -0.74
_EMPHASISED = 0.293
"""VADER's constants: the factor of a negated word's score, and the addition for emphasis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of the lexicon."""

    text: str
    score: float
    """The mean of ten people's ratings, -4 (most negative) to 4."""

    @property
    def positive(self) -> bool:
        return self.score > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """The words in three parts without a common family."""

    train: tuple[Word, ...]
    validation: tuple[Word, ...]
    test: tuple[Word, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Letters, and for each letter the probability that the phrase is positive so far."""

    text: str
    probabilities: tuple[float, ...]
    """After each letter: for all words up to the letter's word, including the letter's word."""


def read(path: Path) -> list[Word]:
    """The entries made of letters, with apostrophes, hyphens and spaces between, sorted.

    `path` is VADER's `vader_lexicon.txt`: token, mean, deviation and ratings, separated by tabs.
    """
    scores: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        token, score, *_ = line.split("\t") if "\t" in line else ("", "0")
        if _WORD.fullmatch(token) and float(score):
            scores[token] = float(score)
    return [Word(text=text, score=score) for text, score in sorted(scores.items())]


def families(words: Sequence[Word]) -> list[list[Word]]:
    """Groups of words: inflections and derivations of a stem are together.

    Two words are in the same family if they share a stem (see `stems`). Sharing is transitive: a
    chain of shared stems joins words too.
    """
    family: dict[str, list[Word]] = {}
    for word in words:
        known = (family[stem] for stem in stems(word.text) if stem in family)
        joined = [word, *chain.from_iterable({id(group): group for group in known}.values())]
        for stem in {stem for member in joined for stem in stems(member.text)}:
            family[stem] = joined
    return list({id(group): group for group in family.values()}.values())


def stems(text: str) -> frozenset[str]:
    """Possible stems of a word: the word itself, and the word without a suffix.

    `y` counts as `i`; a final `e` or `i` and a doubled final consonant count as absent: `loving`,
    `lover` and `love` share `lov`; `happiest` and `happy` share `happ`.
    """
    text = text.replace("y", "i")
    bare = {text} | {
        text.removesuffix(suffix)
        for suffix in SUFFIXES
        if text.endswith(suffix) and len(text) - len(suffix) >= 3
    }
    undoubled = {stem[:-1] for stem in bare if len(stem) > 3 and stem[-1] == stem[-2]}
    unvoiced = {stem[:-1] for stem in bare | undoubled if len(stem) > 3 and stem[-1] in "ei"}
    return frozenset(bare | undoubled | unvoiced)


def split(words: Sequence[Word], *, seed: int) -> Lexicon:
    """Shuffles the families: 85 % of the words train, 5 % validate, 10 % test.

    The families of `EVERYDAY` words always train: a demonstration should know such words.
    """
    everyday = frozenset(EVERYDAY)
    parts: list[list[Word]] = [[], [], []]
    groups = []
    for group in families(words):
        if everyday.isdisjoint(word.text for word in group):
            groups.append(group)
        else:
            parts[0].extend(group)
    random.Random(seed).shuffle(groups)
    for group in groups:
        taken = sum(len(part) for part in parts) / len(words)
        parts[0 if taken < 0.85 else 1 if taken < 0.9 else 2].extend(group)
    train, validation, test = (tuple(part) for part in parts)
    return Lexicon(train=train, validation=validation, test=test)


def majority(words: Sequence[Word]) -> float:
    """The share of the commoner class."""
    positive = sum(word.positive for word in words) / len(words)
    return max(positive, 1 - positive)


def probability(score: float) -> float:
    """The probability of a positive feeling, from the summed scores of a phrase; 0.5 for 0."""
    return 1 / (1 + math.exp(-1.5 * score))


def phrases(words: Sequence[Word], rng: random.Random) -> Iterator[Phrase]:
    """Endless random phrases of one to five words, some neutral, negated or emphasised."""
    while True:
        text, probabilities, total = "", [], 0.0
        negated = emphasised = False
        for _ in range(rng.randint(1, 5)):
            score = 0.0
            kind = rng.random()
            if kind < 0.45:
                word = rng.choice(words)
                spelled, score = word.text, word.score
                if emphasised:
                    score += math.copysign(_EMPHASISED, score)
                if negated:
                    score *= _NEGATED
                negated = emphasised = False
            elif kind < 0.80:
                spelled = rng.choice(NEUTRAL)
            elif kind < 0.90:
                spelled = rng.choice(NEGATIONS)
                negated = True
            else:
                spelled = rng.choice(EMPHASIS)
                emphasised = True
            total += score
            letters = spelled if not text else " " + spelled
            text += letters
            probabilities.extend([probability(total)] * len(letters))
        yield Phrase(text=text, probabilities=tuple(probabilities))


def alone(word: Word) -> Phrase:
    """A word as a phrase."""
    return Phrase(text=word.text, probabilities=(probability(word.score),) * len(word.text))
