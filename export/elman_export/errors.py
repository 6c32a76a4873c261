"""What can go wrong in an export.

```
ExportError            nothing was written; the message says what to change
├── UnsupportedModule  the module can't become a step model; the message names the submodule
├── UnsupportedGraph   the ONNX graph can't become a step model; the message names the node
└── ProofFailed        a step model was built, but it is not the same network
```
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class ExportError(Exception):
    """An export that wrote no file; the message says why and, where one can, what to do."""


class UnsupportedModule(ExportError):
    """A module that can't become a step model; the message names the submodule and the reason."""


class UnsupportedGraph(ExportError):
    """An ONNX graph that can't become a step model; the message names the node and the reason."""


class ProofFailed(ExportError):
    """A step model whose outputs are not the module's, or depend on how a sequence is cut up."""


@contextmanager
def fitting() -> Iterator[None]:
    """Raises `ExportError` for a spec, made inside, that breaks its own rules."""
    try:
        yield
    except ValidationError as error:
        raise ExportError(misfit(error)) from None


def misfit(error: ValidationError) -> str:
    """What a spec's own rules found, in their words; other misfits with the field and what came."""
    said = []
    for each in error.errors():
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] != "value_error":
            field = ".".join(map(str, each["loc"]))
            message = f"{field} is {each['input']!r}: {message[:1].lower()}{message[1:]}"
        said.append(message)
    return "; ".join(said)
