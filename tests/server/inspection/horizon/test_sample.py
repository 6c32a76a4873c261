"""A horizon's elements: random ones, or windows of a user's own, with one replaced in each."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from elman_server.inspection.horizon.sample import (
    ExamplesError,
    random_sample,
    read_examples,
    sample_of,
)
from elman_server.model.spec import InputKind, InputSpec

TEXT = InputSpec(
    name="x", kind=InputKind.TEXT, dtype="int64", size=4, vocabulary=tuple("abc?"), unknown=3
)
STRICT = InputSpec(name="x", kind=InputKind.TEXT, dtype="int64", size=3, vocabulary=tuple("abc"))
TOKENS = InputSpec(name="x", kind=InputKind.TOKENS, dtype="int32", size=5)
FRAMES = InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(3,))
SCALAR = InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32")


@pytest.mark.parametrize("spec", [TEXT, TOKENS, FRAMES, SCALAR], ids=lambda spec: spec.kind)
def test_a_random_sample_is_the_same_every_time(spec: InputSpec) -> None:
    sample, again = (random_sample(spec, lags=7, rows=20) for _ in range(2))
    assert sample.elements.shape == (20, sample.warm_up + 8, *spec.shape)
    assert sample.elements.dtype == sample.replacements.dtype == spec.dtype
    assert sample.lags == 7
    assert np.array_equal(sample.elements, again.elements)
    assert np.array_equal(sample.replacements, again.replacements)


@pytest.mark.parametrize("spec", [TEXT, TOKENS])
def test_an_id_is_replaced_by_another(spec: InputSpec) -> None:
    sample = random_sample(spec, lags=3, rows=500)
    own = sample.elements[:, sample.warm_up]
    assert (sample.replacements != own).all()
    assert set(sample.replacements) == set(range(spec.size))


def test_an_id_is_drawn_as_often_as_it_occurs() -> None:
    stream = np.random.default_rng(0).choice(5, p=[0.5, 0.3, 0.2, 0, 0], size=(1, 5000))
    sample = sample_of(TOKENS, stream.astype(np.int32), "stream", lags=2, rows=2000)
    drawn = sample.replacements[sample.elements[:, sample.warm_up] == 0]
    assert set(drawn) == {1, 2}
    assert (drawn == 1).mean() == pytest.approx(0.6, abs=0.05)


def test_a_feature_is_moved_by_a_tenth_of_its_spread() -> None:
    rng = np.random.default_rng(0)
    frames = (rng.normal(size=(1, 5000, 3)) * [1, 100, 0]).astype(np.float32)
    sample = sample_of(FRAMES, frames, "frames", lags=4, rows=200)
    moved = sample.replacements - sample.elements[:, sample.warm_up]
    spread = sample.elements.std(axis=(0, 1))
    assert np.abs(moved) == pytest.approx(np.broadcast_to(0.1 * spread, moved.shape), rel=1e-3)
    assert {*np.sign(moved[:, 1])} == {-1, 1}
    assert "0.1 of its standard deviation" in sample.perturbation


def test_windows_come_from_anywhere_in_the_examples() -> None:
    stream = np.arange(1000, dtype=np.int32).reshape(2, 500) % 5
    places = np.arange(1000).reshape(2, 500)
    sample = sample_of(TOKENS, stream, "stream", lags=10, rows=50)
    windows = np.lib.stride_tricks.sliding_window_view(stream, 75, axis=1).reshape(-1, 75)
    assert all((windows == row).all(axis=1).any() for row in sample.elements)
    assert sample.source == "stream"
    frames = sample_of(SCALAR, places.astype(np.float32), "places", lags=10, rows=200)
    assert (np.diff(frames.elements, axis=1) == 1).all()
    starts = frames.elements[:, 0]
    assert (starts < 425).any() and (starts >= 500).any() and not (starts % 500 > 425).any()
    assert len(set(starts)) == 200


def test_short_examples_make_short_lags() -> None:
    stream = np.arange(51, dtype=np.int32)[None] % 5
    sample = sample_of(TOKENS, stream, "stream")
    assert (sample.lags, sample.warm_up) == (40, 10)
    longest = sample_of(TOKENS, stream, "stream", lags=50)
    assert (longest.lags, longest.warm_up) == (50, 0)


@pytest.mark.parametrize(
    ("spec", "sequences", "lags", "message"),
    [
        (TOKENS, np.arange(9)[None] % 5, 9, "has sequences of 9 elements; lags up to 9 take at "),
        (TOKENS, np.arange(1)[None], None, "has sequences of 1 elements; lags up to 1 take at"),
        (TOKENS, np.zeros((1, 99)), None, "has the same id everywhere"),
        (FRAMES, np.ones((1, 99, 3)), None, "has the same features everywhere"),
    ],
)
def test_examples_that_say_nothing_are_refused(
    spec: InputSpec, sequences: np.ndarray, lags: int | None, message: str
) -> None:
    with pytest.raises(ExamplesError) as error:
        sample_of(spec, sequences.astype(spec.dtype), "stream", lags=lags)
    assert str(error.value).startswith(f"stream {message}")


def test_text_is_read_as_one_sequence(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abx\nc")
    assert read_examples(TEXT, path).tolist() == [[0, 1, 3, 3, 2]]


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (TOKENS, [[0, 4], [2, 3]]),
        (FRAMES, np.ones((2, 4, 3))),
        (SCALAR, np.ones((2, 4))),
        (SCALAR, np.ones((2, 4), np.int16)),
    ],
)
def test_arrays_are_read_with_or_without_a_batch(
    spec: InputSpec, array: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "array.npy"
    np.save(path, array)
    sequences = read_examples(spec, path)
    assert sequences.dtype == spec.dtype
    assert np.array_equal(sequences, np.asarray(array))
    np.save(path, array[0])
    assert np.array_equal(read_examples(spec, path), np.asarray(array)[:1])


@pytest.mark.parametrize(
    ("spec", "array", "message"),
    [
        (TOKENS, [0, 5], "holds ids from 0 to 5; allowed are 0 to 4"),
        (TOKENS, [-1, 2], "holds ids from -1 to 2; allowed are 0 to 4"),
        (TOKENS, [0.5], "holds float64; expected are integers"),
        (TOKENS, 3, "has shape []; expected is [time] or [batch, time]"),
        (FRAMES, np.ones((9, 2)), "has shape [1, 9, 2]; expected is [time, 3] or [batch, time, 3]"),
        (FRAMES, np.ones((0, 3)), "has shape [1, 0, 3]; expected is [time, 3] or [batch, time, 3]"),
        (SCALAR, [1.0, np.nan], "holds a value that is no finite float32"),
        (SCALAR, [1.0, 1e300], "holds a value that is no finite float32"),
        (SCALAR, ["a"], "holds <U1; expected are numbers"),
    ],
)
def test_a_wrong_array_is_refused(
    spec: InputSpec, array: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.asarray(array))
    with pytest.raises(ExamplesError) as error:
        read_examples(spec, path)
    assert str(error.value) == f"{path} {message}"


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        (TOKENS, b"0 1 2", " is no .npy array of numbers; a model that takes tokens needs one"),
        (TOKENS, b"", " is no .npy array of numbers; a model that takes tokens needs one"),
        (TOKENS, b"PK\3\4", " is no .npy array of numbers; a model that takes tokens needs one"),
        (TEXT, b"\xff\xfe", " is no UTF-8 text; a model that takes text needs one"),
        (TEXT, b"", " is empty"),
        (
            STRICT,
            b"ab\nc",
            ", character 2: character '\\n' is not in the model's vocabulary: 'abc'",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(
    spec: InputSpec, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ExamplesError) as error:
        read_examples(spec, path)
    assert str(error.value) == f"{path}{message}"


def test_a_wide_input_takes_fewer_rows_than_memory_would_feel() -> None:
    wide = InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(4096,))
    assert random_sample(wide, lags=256).elements.nbytes <= 64 * 1024 * 1024


def test_a_large_vocabulary_takes_no_memory_of_its_own() -> None:
    many = InputSpec(name="x", kind=InputKind.TOKENS, dtype="int64", size=1_000_000)
    tracemalloc.start()
    try:
        sample = random_sample(many, lags=1024)
        assert tracemalloc.get_traced_memory()[1] < 8 * sample.elements.nbytes
    finally:
        tracemalloc.stop()
