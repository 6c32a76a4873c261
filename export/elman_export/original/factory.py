"""A torch module by name, `package.module:factory`, with weights from a file."""

import importlib
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from elman_export.errors import ExportError

_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys of the state dict in a checkpoint. torch's own tutorials use the second key."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes added to every name by DataParallel and torch.compile."""


def build(name: str, weights: Path | None = None) -> nn.Module:
    """Returns the module `package.module:factory`, or the module made by this factory, with the
    weights of a state dict.

    The current folder is searched first, as in `python -m`. The weights file holds the result of
    `torch.save(module.state_dict(), file)`, or a dict with the state dict under `state_dict`,
    `model_state_dict` or `model`. Code in the weights file is never run. Raises `ExportError`.
    """
    path, _, attribute = name.partition(":")
    if not path or not attribute or path.startswith("."):
        raise ExportError(f"{name!r} names no factory; allowed is package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(path)
    except ModuleNotFoundError as error:
        message = f"{name!r}: no module named {error.name!r}"
        if path.endswith(".py"):
            message += f"; allowed is its name, as {path.removesuffix('.py').replace('/', '.')!r}"
        raise ExportError(message) from None
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise ExportError(f"{name!r}: importing {path} raises {_first_line(error)}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ExportError(f"{name!r}: {path} has no {attribute!r}")
        found = getattr(found, part)
    made = found if isinstance(found, nn.Module) or not callable(found) else _called(name, found)
    if not isinstance(made, nn.Module):
        raise ExportError(f"{name!r} gives a {type(made).__name__}; it must give an nn.Module")
    if weights is not None:
        _load(made, weights)
    return made


def _called(name: str, factory: Callable[[], object]) -> object:
    try:
        return factory()
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise ExportError(
            f"{name!r} raises {_first_line(error)}; it is called without arguments: give a "
            "function that makes the module with its own"
        ) from None


def _without_wrapper(module: nn.Module, saved: dict[str, object]) -> dict[str, object]:
    """Removes a wrapper's prefix from the saved names, if the names then match the module's own."""
    own = module.state_dict()
    for prefix in _WRAPPERS:
        inner = {name.removeprefix(prefix): value for name, value in saved.items()}
        if all(name.startswith(prefix) for name in saved) and inner.keys() == own.keys():
            return inner
    return saved


def _first_line(error: BaseException) -> str:
    kind = type(error).__name__
    return f"{kind}: {lines[0]}" if (lines := str(error).strip().splitlines()) else kind


def _load(module: nn.Module, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Warnings about pickles from other programs. Failed reads are reported below.
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"--weights {path}: {error.strerror}") from None
    except pickle.UnpicklingError:
        raise ExportError(
            f"--weights {path} holds no state dict that can be read without running code in it; "
            "write one with torch.save(module.state_dict(), file)"
        ) from None
    except Exception as error:  # any error of torch's unpickler
        raise ExportError(f"--weights {path} holds no state dict: {_first_line(error)}") from None
    if isinstance(saved, dict):
        saved = next((saved[key] for key in _KEYS if key in saved), saved)
    if not isinstance(saved, dict):
        raise ExportError(f"--weights {path} holds a {type(saved).__name__}, not a state dict")
    saved = _without_wrapper(module, saved)
    try:
        missing, unexpected = module.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise ExportError(f"--weights {path}: {' '.join(str(error).split())}") from None
    if missing or unexpected:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(unexpected)} beside"] if unexpected else []
        raise ExportError(f"--weights {path} does not fit the module: it {' and '.join(parts)}")
