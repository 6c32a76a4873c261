"""Calls of a user's module, with errors traced to a submodule."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule
from elman_export.original.recurrence import kind

_Running = tuple[str, nn.Module, Sequence[Any]]
"""A running submodule: its name, the module and the positional arguments."""


class CallFailed(UnsupportedModule):
    """An error raised by the module's own code. `culprit`, registered as `name`, is the innermost
    submodule that failed."""

    def __init__(self, message: str, name: str, culprit: nn.Module) -> None:
        super().__init__(message)
        self.name = name
        self.culprit = culprit


def call(module: nn.Module, arguments: Sequence[Any], description: str) -> Any:
    """Returns the result of `module(*arguments)`, without gradients.

    `description` describes the arguments in messages. Raises `CallFailed` with the submodule's name
    for an error in the module's own code.
    """
    running: list[_Running] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, submodule in module.named_modules():
            before, after = _watch(name, submodule, running)
            hooks.callback(submodule.register_forward_pre_hook(before).remove)
            hooks.callback(submodule.register_forward_hook(after).remove)
        hooks.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        try:
            return module(*arguments)
        except UnsupportedModule:
            raise
        except Exception as error:  # any error of the module's own code
            name, culprit, taken = running[-1] if running else ("", module, ())
            where = f", in {name!r} ({kind(culprit)})" if name else ""
            message = _foreign_id(culprit, taken) or " ".join(str(error).split())
            message = message or type(error).__name__
            raise CallFailed(
                f"{type(module).__name__} can't take {description}{where}: {message}", name, culprit
            ) from error


def _foreign_id(culprit: nn.Module, taken: Sequence[Any]) -> str:
    """Returns an error text for an id without a row in an embedding; empty if all ids are valid."""
    ids = taken[0] if taken else None
    if not isinstance(culprit, nn.Embedding | nn.EmbeddingBag) or not isinstance(ids, Tensor):
        return ""
    last = culprit.num_embeddings - 1
    foreign = ids[(ids < 0) | (ids > last)]
    if not foreign.numel() or ids.is_floating_point():
        return ""
    return f"it holds the ids 0 to {last}, and is given {foreign.flatten()[0].item()}"


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The array as a tensor. A floating array gets the module's type."""
    made = torch.from_numpy(np.ascontiguousarray(array))
    return made.to(dtype) if made.dtype.is_floating_point else made


def array(value: Tensor) -> np.ndarray:
    """The tensor as an array. float16 and bfloat16 become float32, without rounding."""
    value = value.detach()
    half = value.dtype in (torch.float16, torch.bfloat16)
    found: np.ndarray = (value.float() if half else value).numpy()
    return found


def described(tensors: Sequence[Tensor]) -> str:
    """Types and shapes as text, for messages."""
    return ", ".join(
        f"{str(each.dtype).removeprefix('torch.')} {list(each.shape)}" for each in tensors
    )


def _watch(name: str, submodule: nn.Module, running: list[_Running]) -> Any:
    def before(_: nn.Module, taken: tuple[Any, ...]) -> None:
        running.append((name, submodule, taken))

    def after(*_: Any) -> None:
        running.pop()

    return before, after
