"""Errors of an export.

```
ExportError            nothing was written; the message says what to change
├── UnsupportedModule  the module can't become a step model; the message names the submodule
├── UnsupportedGraph   the ONNX graph can't become a step model; the message names the node
├── CandidateFailed    one way to build a step model; the next is tried
└── ProofFailed        a step model was built, but it is not the same network
```
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class ExportError(Exception):
    """A failed export that wrote no file. The message gives the reason and, if possible,
    a remedy."""


class UnsupportedModule(ExportError):
    """A module that can't become a step model. The message names the submodule and the reason."""


class UnsupportedGraph(ExportError):
    """An ONNX graph that can't become a step model. The message names the node and the reason."""


class ProofFailed(ExportError):
    """A step model whose outputs differ from the module's, or depend on the cuts of a sequence."""


class CandidateFailed(ExportError):
    """A step model that can't be built in this way. Another way may work."""


@contextmanager
def explained(explain: Callable[[], str]) -> Iterator[None]:
    """Puts the explanation, if any, in front of the error's message."""
    try:
        yield
    except (ProofFailed, UnsupportedModule) as error:
        reason = explain()
        if not reason:
            raise
        known = ProofFailed if isinstance(error, ProofFailed) else UnsupportedModule
        raise known(f"{reason} ({error})") from error


@contextmanager
def fitting() -> Iterator[None]:
    """Raises `ExportError` for an invalid spec, created inside of the context."""
    try:
        yield
    except ValidationError as error:
        raise ExportError(misfit(error)) from None


def misfit(error: ValidationError) -> str:
    """Returns the messages of a validation error. Messages of a spec's own rules are unchanged;
    other messages name the field and the value."""
    messages = []
    for each in error.errors():
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] != "value_error":
            field = ".".join(map(str, each["loc"]))
            message = f"{field} is {each['input']!r}: {message[:1].lower()}{message[1:]}"
        messages.append(message)
    return "; ".join(messages)
