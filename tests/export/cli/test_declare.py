"""The short forms of `elman export`'s options."""

import json
from pathlib import Path

import numpy as np
import pytest

from elman_export.cli import declare
from elman_export.errors import ExportError
from elman_server.model.spec import InputKind, OutputKind


def _file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_vocabulary_is_a_files_characters_in_order(tmp_path: Path) -> None:
    path = _file(tmp_path / "letters.txt", "ab\n c\n")
    found = declare.input(f"text:{path}", unknown=" ")
    assert found.kind is InputKind.TEXT
    assert found.vocabulary == ("a", "b", "\n", " ", "c")
    assert found.unknown == 3


@pytest.mark.parametrize("document", [["b", "a", "c"], {"a": 1, "c": 2, "b": 0}])
def test_a_vocabulary_is_a_json_list_or_an_object_of_ids(document: object, tmp_path: Path) -> None:
    path = _file(tmp_path / "letters.json", json.dumps(document))
    assert declare.input(f"text:{path}").vocabulary == ("b", "a", "c")


def test_tokens_have_a_size_or_names(tmp_path: Path) -> None:
    assert declare.input("tokens:50").size == 50
    path = _file(tmp_path / "names.txt", "milk\nbread\n")
    named = declare.input(f"tokens:{path}")
    assert (named.size, named.vocabulary) == (2, ("milk", "bread"))


def test_a_vocabulary_may_hold_what_other_programs_take_for_line_ends(tmp_path: Path) -> None:
    path = _file(tmp_path / "letters.txt", "a\n\r\x0b\u2028\n")
    assert declare.input(f"text:{path}").vocabulary == ("a", "\n", "\r", "\x0b", "\u2028")
    path = _file(tmp_path / "names.txt", "a\n\r\n\x0b\n\x85\n\u2028\n")
    assert declare.input(f"tokens:{path}").vocabulary == ("a", "\r", "\x0b", "\x85", "\u2028")


def test_a_file_may_come_from_windows(tmp_path: Path) -> None:
    path = _file(tmp_path / "names.txt", "\ufeffmilk\r\nbread\r\n")
    assert declare.input(f"tokens:{path}").vocabulary == ("milk", "bread")
    path = _file(tmp_path / "letters.json", '\ufeff["a",\r\n "b"]\r\n')
    assert declare.input(f"text:{path}").vocabulary == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no names"),
        ("[]", "it holds no names"),
        ("[1, 2]", "the list holds other things than strings"),
        ('["a", null]', "the list holds other things than strings"),
    ],
)
def test_names_that_can_not_be_say_why(text: str, message: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "names", text)
    with pytest.raises(ExportError, match=f"--input tokens:.*/names: {message}$"):
        declare.input(f"tokens:{path}")
    with pytest.raises(ExportError, match=f"--returns y=logits:.*/names: {message}$"):
        declare.output(f"y=logits:{path}")


@pytest.mark.parametrize(("text", "shape"), [("257", (257,)), ("3x4", (3, 4)), ("", ())])
def test_features_have_a_shape(text: str, shape: tuple[int, ...]) -> None:
    assert declare.input(f"features:{text}").shape == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words:5", "--input is 'words:5'; allowed are text:FILE, tokens:SIZE"),
        ("text", "--input is 'text'; allowed are"),
        ("tokens:0", "--input tokens:0: input.size is 0; there must be at least 1 id"),
        ("features:3x", "--input features:3x: a shape is sizes with x between, as 3x4"),
        ("features:0", "--input features:0: a shape is sizes with x between, as 3x4"),
        ("features:²", "--input features:²: a shape is sizes with x between, as 3x4"),
        ("tokens:²", "--input tokens:²: No such file or directory"),
        ("text:nothing.txt", "--input text:nothing.txt: No such file or directory"),
    ],
)
def test_an_input_that_can_not_be_names_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        declare.input(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aa", "input.vocabulary holds an entry twice"),
        ('{"a": 0, "b": 2}', "the object's values are not the ids 0, 1, 2, ..."),
        ('{"a": "0", "b": [2]}', "the object's values are not the ids 0, 1, 2, ..."),
        ('["ab"]', "holds one character for each id"),
    ],
)
def test_a_vocabulary_that_can_not_be_says_why(text: str, message: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "letters", text)
    with pytest.raises(ExportError, match=message):
        declare.input(f"text:{path}")


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExportError, match="not UTF-8 text"):
        declare.input(f"text:{path}")


def test_an_unknown_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path / "letters", "abc")
    with pytest.raises(ExportError, match="unknown is '\\?', which the vocabulary does not hold"):
        declare.input(f"text:{path}", unknown="?")


def test_an_unknown_is_of_text(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--unknown is of --input text:FILE; the input is 'tok"):
        declare.input("tokens:5", unknown="?")


def test_an_output_has_a_kind_and_perhaps_labels(tmp_path: Path) -> None:
    path = _file(tmp_path / "labels", "no\nyes\n")
    found = declare.output(f"verdict=logits:{path}")
    assert (found.name, found.kind, found.labels) == ("verdict", OutputKind.LOGITS, ("no", "yes"))
    assert declare.output("y=values").labels == ()
    assert declare.output("y=logits:input", ("a", "b")).labels == ("a", "b")
    with pytest.raises(ExportError, match="but the input has no vocabulary"):
        declare.output("y=logits:input")


@pytest.mark.parametrize("text", ["y", "y=", "=logits", "y=softmax", "y:logits"])
def test_an_output_that_can_not_be_names_what_is_allowed(text: str) -> None:
    with pytest.raises(ExportError, match="allowed are NAME=values, NAME=logits"):
        declare.output(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("sr=16000", 16000), ("on=true", True), ("w=1,2.5,3", [1, 2.5, 3]), ("x=-0.5", -0.5)],
)
def test_a_constant_is_numbers(text: str, value: object) -> None:
    name, found = declare.value("--constant", text)
    assert name == text.partition("=")[0]
    assert found.tolist() == value


def test_a_constant_is_an_array_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.eye(2))
    _, found = declare.value("--constant", f"w={tmp_path / 'w.npy'}")
    assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "text", ["sr", "sr=", "sr=fast", "sr=[1", "=3", 'sr="16"', "sr=null", "sr=" + 9**4 * "["]
)
def test_a_constant_that_can_not_be_names_what_is_allowed(text: str) -> None:
    with pytest.raises(ExportError, match=r"--constant .* allowed (is|are) "):
        declare.value("--constant", text)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00v\x00{'descr'",
        b"\x93NUMPY\x01\x00\x44\x00"
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}\n",
    ],
    ids=["nothing", "words", "an archive", "a header cut off", "8 TiB"],
)
def test_an_array_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"^--examples: .*x\.npy: no \.npy file of numbers$"):
        declare.array("--examples", path)


def test_an_array_of_words_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["low", "high"]))
    with pytest.raises(ExportError, match=r"x\.npy holds <U4; allowed are numbers"):
        declare.array("--examples", tmp_path / "x.npy")


def test_an_array_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--examples: .*x\.npy: No such file or directory"):
        declare.array("--examples", tmp_path / "x.npy")


@pytest.mark.parametrize(("text", "shape"), [("h:128", (128,)), ("h:2x64", (2, 64)), ("h:", ())])
def test_a_torch_modules_states_and_contexts_have_a_shape(
    text: str, shape: tuple[int, ...]
) -> None:
    for found in (declare.state(text), declare.context(text)):
        assert (found.name, found.dtype, found.shape) == ("h", "float32", shape)


@pytest.mark.parametrize("text", ["h", ":3", "h:hn", "h:0", "h:3x", "h:-1", "h:²"])
def test_a_shape_that_can_not_be_names_what_is_allowed(text: str) -> None:
    with pytest.raises(ExportError) as caught:
        declare.state(text)
    assert str(caught.value) == (
        f"--state is {text!r}; allowed for a torch module is NAME:SHAPE, as h:128"
    )
    with pytest.raises(ExportError, match=r"allowed for .* is NAME:SHAPE, as picture:12x12$"):
        declare.context(text)


def test_a_size_beyond_all_bounds_says_why() -> None:
    with pytest.raises(ExportError) as caught:
        declare.state("h:99999999999")
    assert str(caught.value) == (
        "--state h:99999999999: shape.0 is 99999999999: input should be less than 2147483648"
    )


def test_a_pair_is_an_input_and_an_output() -> None:
    assert declare.pair("--state", "h:hn") == ("h", "hn")
    assert declare.pair("--state", "lstm/h:0=lstm/hn:0") == ("lstm/h:0", "lstm/hn:0")
    for text in ("h", "h:", ":hn", "a:b:c"):
        with pytest.raises(ExportError, match="allowed is IN:OUT"):
            declare.pair("--state", text)
