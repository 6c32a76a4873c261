"""Contexts of the command line are what the model takes, or are told in one line."""

import io
from pathlib import Path

import click
import numpy as np
import pytest

from elman import Context, Input, InputKind, Model
from elman.cli.contexts import ContextArgument, read

IMAGE = Context(name="image", dtype=np.dtype("<f4"), shape=(2, 3))
STYLE = Context(name="style", dtype=np.dtype("<i8"), shape=())


def model(*contexts: Context) -> Model:
    return Model(
        name="captions",
        version="1",
        fingerprint="",
        description="",
        input=Input(
            kind=InputKind.TEXT,
            dtype=None,
            shape=(),
            size=1,
            vocabulary=("a",),
            accepts_unknown=False,
        ),
        outputs=(),
        state_bytes=0,
        contexts=contexts,
    )


CAPTIONS = model(IMAGE, STYLE)


def arguments(**texts: str) -> list[ContextArgument]:
    return [ContextArgument(name=name, text=text) for name, text in texts.items()]


def headed(shape: str) -> bytes:
    """The beginning of a .npy file that says this shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize("text", ["1,2,3,4,5,6", "1, 2, 3, 4, 5, 6", "1 2 3 4 5 6e0"])
def test_numbers_take_the_shape_of_their_context(text: str) -> None:
    found = read(arguments(style="7", image=text), CAPTIONS)
    assert found["image"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found["style"].tolist() == 7


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(2, 3))
    np.save(tmp_path / "image.npy", image)
    found = read(arguments(image=str(tmp_path / "image.npy"), style="7"), CAPTIONS)
    assert np.array_equal(found["image"], image)


def test_a_model_without_contexts_needs_none() -> None:
    assert read([], model()) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"style": "7"},
            "'captions' needs --context image=..., 6 numbers with commas between or a .npy file: "
            "image float32[2, 3]",
        ),
        (
            {"image": "1,2,3,4,5,6"},
            "'captions' needs --context style=..., a number or a .npy file: style int64",
        ),
        (
            {"image": "1,2,3,4,5,6", "style": "7", "mood": "1"},
            "--context mood: 'captions' takes image float32[2, 3], style int64",
        ),
        (
            {"image": "1,2,3"},
            "--context image is '1,2,3'; expected is 6 numbers with commas between or a .npy file: "
            "image float32[2, 3]",
        ),
        (
            {"style": "blue"},
            "--context style is 'blue'; expected is a number or a .npy file: style int64",
        ),
        (
            {"style": "1.5"},
            "--context style is '1.5'; expected is a number or a .npy file: style int64",
        ),
        ({"image": "nowhere.npy"}, "--context image: nowhere.npy: No such file or directory"),
        ({"image": "garbage.npy"}, "--context image: garbage.npy is no .npy file of numbers"),
        ({"image": "empty.npy"}, "--context image: empty.npy is no .npy file of numbers"),
        ({"image": "objects.npy"}, "--context image: objects.npy is no .npy file of numbers"),
        ({"image": "several.npy"}, "--context image: several.npy is no .npy file of numbers"),
        ({"image": "cut.npy"}, "--context image: cut.npy is no .npy file of numbers"),
        ({"image": "endless.npy"}, "--context image: endless.npy is no .npy file of numbers"),
        (
            {"image": "other.npy"},
            "--context image is 'other.npy' of shape [3, 2]; expected is 6 numbers with commas "
            "between or a .npy file: image float32[2, 3]",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_expected(
    texts: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("garbage.npy").write_bytes(b"a picture of a cat")
    Path("empty.npy").write_bytes(b"")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    several = io.BytesIO()
    np.savez(several, a=np.zeros(6))
    Path("several.npy").write_bytes(several.getvalue())
    np.save("other.npy", np.zeros((3, 2)))
    Path("cut.npy").write_bytes(headed("((3, 2)"))
    Path("endless.npy").write_bytes(headed("(1099511627776,)"))
    with pytest.raises(click.UsageError) as caught:
        read(arguments(**texts), CAPTIONS)
    assert caught.value.message == message


def test_a_context_is_given_once() -> None:
    twice = [*arguments(style="1"), *arguments(style="2")]
    with pytest.raises(click.UsageError) as caught:
        read(twice, CAPTIONS)
    assert caught.value.message == "--context style is given twice; allowed is once"
