"""Parsing of the short forms in `elman export`'s options.

Each function takes an option's text. It raises `ExportError` with the option, the text and the
allowed forms.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from elman_export import interface
from elman_export.errors import ExportError
from elman_export.interface import Output
from elman_server.model.spec import ContextSpec, InputSpec, StateSpec

_INPUTS = "text:FILE, tokens:SIZE, tokens:FILE or features:SHAPE (as features:257 or features:3x4)"
_KINDS: Mapping[str, Callable[..., Output]] = {
    "values": interface.values,
    "logits": interface.logits,
    "probabilities": interface.probabilities,
}


def input(text: str, *, unknown: str | None = None) -> InputSpec:
    """Parses `text:FILE`, `tokens:SIZE`, `tokens:FILE` or `features:SHAPE`.

    In `text:FILE`, the file is a vocabulary in id order: JSON (a list of characters, or an object
    from characters to ids), or plain text with all characters. In `tokens:FILE`, the file has a
    name for each id, line by line or as JSON. A scalar is `features:`.
    """
    kind, colon, rest = text.partition(":")
    if unknown is not None and kind != "text":
        raise ExportError(f"--unknown is of --input text:FILE; the input is {text!r}")
    with _one_line("--input", text):
        match kind:
            case "text" if rest:
                return interface.text(_vocabulary(Path(rest)), unknown=unknown)
            case "tokens" if _is_number(rest):
                return interface.tokens(int(rest))
            case "tokens" if rest:
                names = _entries(Path(rest))
                return interface.tokens(len(names), names=names)
            case "features" if colon:
                return interface.features(*_sizes(rest))
    raise ExportError(f"--input is {text!r}; allowed are {_INPUTS}")


def output(text: str, vocabulary: Sequence[str] = ()) -> Output:
    """Parses `NAME=KIND`, with optional labels for the entries of the last axis: `NAME=KIND:FILE`
    (a file as in `tokens:FILE`), or `NAME=KIND:input` (the input's `vocabulary`)."""
    name, _, rest = text.partition("=")
    kind, _, labels = rest.partition(":")
    if not name or kind not in _KINDS:
        raise ExportError(
            f"--returns is {text!r}; allowed are NAME=values, NAME=logits and NAME=probabilities, "
            "each with :FILE or :input behind it to label the entries"
        )
    with _one_line("--returns", text):
        if labels == "input" and not vocabulary:
            raise ExportError(f"--returns is {text!r}, but the input has no vocabulary")
        if labels == "input":
            return _KINDS[kind](name, labels=vocabulary)
        return _KINDS[kind](name, labels=_entries(Path(labels)) if labels else ())


def pair(option: str, text: str) -> tuple[str, str]:
    """Parses `IN:OUT`, or `IN=OUT` for names with colons."""
    separator = "=" if "=" in text else ":"
    before, _, after = text.partition(separator)
    if not before or not after or separator in after:
        raise ExportError(
            f"{option} is {text!r}; allowed is IN:OUT, an input and an output, or IN=OUT where "
            "names have colons"
        )
    return before, after


def state(text: str) -> StateSpec:
    """Parses `NAME:SHAPE` of a state that a torch module takes and returns, as `h:128`."""
    name, sizes = _named_shape("--state", text, "h:128")
    with _one_line("--state", text):
        return interface.state(name, *sizes)


def context(text: str) -> ContextSpec:
    """Parses `NAME:SHAPE` of a torch module's context, given once per session, as
    `picture:12x12`."""
    name, sizes = _named_shape("--context", text, "picture:12x12")
    with _one_line("--context", text):
        return interface.context(name, *sizes)


def value(option: str, text: str) -> tuple[str, np.ndarray]:
    """Parses `NAME=VALUE`: a number, several numbers with commas between them, or an .npy file."""
    name, _, rest = text.partition("=")
    if not name or not rest:
        raise ExportError(
            f"{option} is {text!r}; allowed is NAME=NUMBER, NAME=1,2,3, NAME=FILE.npy"
        )
    if rest.endswith(".npy"):
        return name, array(option, Path(rest))
    try:
        numbers = json.loads(f"[{rest}]")
        found = np.array(numbers)
    except (ValueError, RecursionError):
        found = np.array("")
    if found.dtype.kind not in "bif":
        raise ExportError(f"{option} {name} is {rest!r}; allowed are numbers, and true or false")
    return name, found[0] if found.size == 1 else found


def array(option: str, path: Path) -> np.ndarray:
    """Reads the numbers in an .npy file."""
    try:
        with open(path, "rb") as file:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise ExportError(f"{option}: {path}: {error.strerror}") from None
    except Exception:  # any error of numpy's parsers on a broken header
        raise ExportError(f"{option}: {path}: no .npy file of numbers") from None
    if found.dtype.kind not in "biuf":
        raise ExportError(f"{option}: {path} holds {found.dtype}; allowed are numbers")
    return found


class _one_line:
    """Converts errors of the file system and of the spec's rules to `ExportError`."""

    def __init__(self, option: str, text: str) -> None:
        self._option = f"{option} {text}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise ExportError(f"{self._option}: {error.strerror}") from None
        if isinstance(error, UnicodeDecodeError):
            raise ExportError(f"{self._option}: not UTF-8 text") from None
        if isinstance(error, ValueError):
            raise ExportError(f"{self._option}: {error}") from None


def _named_shape(option: str, text: str, example: str) -> tuple[str, Sequence[int]]:
    name, colon, rest = text.partition(":")
    try:
        if name and colon:
            return name, _sizes(rest)
    except ValueError:
        pass
    raise ExportError(
        f"{option} is {text!r}; allowed for a torch module is NAME:SHAPE, as {example}"
    )


def _sizes(text: str) -> Sequence[int]:
    """Parses `3x4`; an empty text is a scalar."""
    sizes = text.split("x") if text else []
    if not all(_is_number(size) and int(size) for size in sizes):
        raise ValueError("a shape is sizes with x between, as 3x4")
    return [int(size) for size in sizes]


def _is_number(text: str) -> bool:
    """Whether the text has only the digits 0 to 9. Other digits, as in `²`, are excluded."""
    return text.isascii() and text.isdecimal()


def _vocabulary(path: Path) -> Sequence[str]:
    text = _text(path)
    found = _json(text)
    if found is not None:
        return found
    return list(text.removesuffix("\n") or text)


def _entries(path: Path) -> Sequence[str]:
    text = _text(path)
    found = _json(text)
    if found is None:
        # Not splitlines, which also splits at characters that a vocabulary may hold.
        found = text.removesuffix("\n").split("\n") if text else []
    if not found:
        raise ValueError("it holds no names")
    return found


def _text(path: Path) -> str:
    """Reads the text without the byte order mark, and with Windows line ends converted.

    Windows line ends are converted only if the file has no other line ends, since a vocabulary may
    hold a carriage return.
    """
    text = path.read_bytes().decode("utf-8-sig")
    ends = text.count("\r\n")
    return text.replace("\r\n", "\n") if ends == text.count("\n") else text


def _json(text: str) -> Sequence[str] | None:
    """Parses a list of strings, or an object from strings to indices; `None` for any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        if sorted(found.values(), key=str) != sorted(range(len(found)), key=str):
            raise ValueError("the object's values are not the ids 0, 1, 2, ...")
        return sorted(found, key=lambda key: int(found[key]))
    if isinstance(found, list):
        if not all(isinstance(each, str) for each in found):
            raise ValueError("the list holds other things than strings")
        return found
    return None
