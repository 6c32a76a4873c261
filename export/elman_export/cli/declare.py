"""What `elman export`'s options say, read from their short forms.

Each function takes an option's text and raises `ExportError` naming the option, what came and what
is allowed.
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
    """`text:FILE`: a vocabulary, in id order: JSON (a list of characters, or an object from
    characters to ids), or else each of the file's characters. `tokens:SIZE`, or `tokens:FILE` with
    a name for each id, line by line or as JSON. `features:SHAPE`; a scalar is `features:`.
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
    """`NAME=KIND`, or with labels for the entries of the last axis: `NAME=KIND:FILE`, as `tokens`
    has names, or `NAME=KIND:input`, those of the input's `vocabulary`."""
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
    """`IN:OUT`; `IN=OUT` for names that have colons themselves."""
    separator = "=" if "=" in text else ":"
    before, _, after = text.partition(separator)
    if not before or not after or separator in after:
        raise ExportError(
            f"{option} is {text!r}; allowed is IN:OUT, an input and an output, or IN=OUT where "
            "names have colons"
        )
    return before, after


def state(text: str) -> StateSpec:
    """`NAME:SHAPE` of a state that a torch module takes and returns itself, as `h:128`."""
    name, sizes = _named_shape("--state", text, "h:128")
    with _one_line("--state", text):
        return interface.state(name, *sizes)


def context(text: str) -> ContextSpec:
    """`NAME:SHAPE` of what a session of a torch module is given once, as `picture:12x12`."""
    name, sizes = _named_shape("--context", text, "picture:12x12")
    with _one_line("--context", text):
        return interface.context(name, *sizes)


def value(option: str, text: str) -> tuple[str, np.ndarray]:
    """`NAME=VALUE`: a number, several with commas between them, or an .npy file."""
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
    """The numbers in an .npy file."""
    try:
        with open(path, "rb") as file:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise ExportError(f"{option}: {path}: {error.strerror}") from None
    except Exception:  # whatever numpy's parsers of a broken header meet
        raise ExportError(f"{option}: {path}: no .npy file of numbers") from None
    if found.dtype.kind not in "biuf":
        raise ExportError(f"{option}: {path} holds {found.dtype}; allowed are numbers")
    return found


class _one_line:
    """Turns what the file system and the spec's rules raise into an `ExportError`."""

    def __init__(self, option: str, text: str) -> None:
        self._said = f"{option} {text}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise ExportError(f"{self._said}: {error.strerror}") from None
        if isinstance(error, UnicodeDecodeError):
            raise ExportError(f"{self._said}: not UTF-8 text") from None
        if isinstance(error, ValueError):
            raise ExportError(f"{self._said}: {error}") from None


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
    """`3x4`; nothing for a scalar."""
    sizes = text.split("x") if text else []
    if not all(_is_number(size) and int(size) for size in sizes):
        raise ValueError("a shape is sizes with x between, as 3x4")
    return [int(size) for size in sizes]


def _is_number(text: str) -> bool:
    """Whether it is written in the digits 0 to 9 alone: others, as in `²`, are digits too."""
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
        # Not splitlines, which also cuts at characters that a vocabulary may hold.
        found = text.removesuffix("\n").split("\n") if text else []
    if not found:
        raise ValueError("it holds no names")
    return found


def _text(path: Path) -> str:
    """As it stands, but for the byte order mark and the line ends of Windows.

    The latter are taken for line ends only where there are no others, since a vocabulary may hold a
    carriage return.
    """
    text = path.read_bytes().decode("utf-8-sig")
    ends = text.count("\r\n")
    return text.replace("\r\n", "\n") if ends == text.count("\n") else text


def _json(text: str) -> Sequence[str] | None:
    """A list of strings, or the keys of an object whose values are their places; None for a text
    that is no list and no object."""
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
