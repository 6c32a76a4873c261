"""The lexicon's families keep inflections together, and its phrases add up."""

import random
from itertools import islice
from pathlib import Path

import pytest

from elman_export.recipes import lexicon
from elman_export.recipes.lexicon import Word
from elman_export.recipes.source import packaged

FILE = packaged("vaderSentiment", "vaderSentiment", "vader_lexicon.txt")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("love", "loving"),
        ("love", "lovers"),
        ("happy", "happiest"),
        ("happy", "happily"),
        ("bad", "baddest"),
        ("abandon", "abandonment"),
        ("hope", "hopelessness"),
        ("care", "careful"),
    ],
)
def test_inflections_and_derivations_share_a_stem(one: str, other: str) -> None:
    assert lexicon.stems(one) & lexicon.stems(other)


@pytest.mark.parametrize(("one", "other"), [("hate", "happy"), ("trick", "trust"), ("bad", "sad")])
def test_unrelated_words_do_not(one: str, other: str) -> None:
    assert not lexicon.stems(one) & lexicon.stems(other)


def test_families_join_what_any_member_links() -> None:
    words = [Word(text=text, score=1.0) for text in ("care", "careful", "cares", "trust")]
    groups = sorted(sorted(word.text for word in group) for group in lexicon.families(words))
    assert groups == [["care", "careful", "cares"], ["trust"]]


def test_the_lexicon_is_read_without_its_emoticons(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text(
        ":)\t2.0\t1\t[]\ngood\t1.9\t1\t[]\ncan't stand\t-2.0\t0.6\t[]\nd8\t-3\t1\t[]\n"
        "meh\t0\t1\t[]\n"
    )
    assert lexicon.read(path) == [
        Word(text="can't stand", score=-2.0),
        Word(text="good", score=1.9),
    ]


def test_no_stem_is_in_two_parts_of_the_split() -> None:
    split = lexicon.split(lexicon.read(FILE), seed=3)
    parts = [split.train, split.validation, split.test]
    stems = [set().union(*(lexicon.stems(word.text) for word in part)) for part in parts]
    assert not stems[0] & stems[1]
    assert not stems[0] & stems[2]
    assert not stems[1] & stems[2]
    assert len(split.test) == pytest.approx(0.1 * sum(map(len, parts)), rel=0.1)
    assert set(lexicon.EVERYDAY) <= {word.text for word in split.train}


def test_a_split_is_the_same_for_the_same_seed() -> None:
    words = lexicon.read(FILE)
    assert lexicon.split(words, seed=3) == lexicon.split(words, seed=3)
    assert lexicon.split(words, seed=3) != lexicon.split(words, seed=4)


def test_a_phrase_has_a_probability_for_every_letter() -> None:
    words = [Word(text="good", score=1.9), Word(text="bad", score=-2.5)]
    for phrase in islice(lexicon.phrases(words, random.Random(0)), 200):
        assert len(phrase.text) == len(phrase.probabilities)
        assert 0 < min(phrase.probabilities) <= max(phrase.probabilities) < 1
        if {"good", "bad"}.isdisjoint(phrase.text.split()):
            assert set(phrase.probabilities) == {0.5}


def test_neutral_words_have_no_score_of_their_own() -> None:
    known = {word.text for word in lexicon.read(FILE)}
    assert known.isdisjoint(lexicon.NEUTRAL + lexicon.NEGATIONS + lexicon.EMPHASIS)
    assert known.issuperset(lexicon.EVERYDAY)
