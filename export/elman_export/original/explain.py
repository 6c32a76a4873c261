"""Reasons why a module can't answer element by element: a submodule mixes steps or rows.

A proof shows the difference between a step model and the module, but not the cause. So each
submodule outside of the recurrent layers runs alone on recorded arguments: first unchanged, then
with a single step (or row) changed. If the result also changes at other steps or rows, the
submodule mixes steps or rows. A proved module does not need these functions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule
from elman_export.original.recurrence import kind

_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73)

_NO_STATE = (
    "attention, pooling, convolution or normalisation over time have no state that a stream could "
    "carry"
)
_TOLERANCE = 1e-5
_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class _Use:
    """A call of a submodule."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def sizes(module: nn.Module) -> tuple[int, int]:
    """A batch size and a number of steps, both different from every axis length of the weights."""
    taken = {size for tensor in module.state_dict().values() for size in tensor.shape}
    free = [prime for prime in _PRIMES if prime not in taken]
    batch, time = (free + list(_PRIMES))[:2]
    return batch, time


def changing(run: Callable[[], Mapping[str, Tensor]]) -> str:
    """Error text for a module with different outputs for the same input; otherwise empty.

    `run` runs the module on the same input every time and returns its outputs.
    """
    try:
        first, second = run(), run()
    except UnsupportedModule:
        return ""
    if all(
        torch.equal(value.nan_to_num(), second[name].nan_to_num()) for name, value in first.items()
    ):
        return ""
    return (
        "the module says something else when it is given the same again: it draws random numbers, "
        "as F.dropout(x) does without training=self.training, or keeps a state from run to run"
    )


def mixing(module: nn.Module, run: Callable[[], object], batch: int, time: int = 1) -> str:
    """Error text with the submodule that mixes steps or rows; empty if no single submodule does.

    `run` runs the module on `batch` sequences of `time` elements (or on one element per row).
    """
    rows = ("rows of a batch", batch, "so that sessions would meet")
    steps = ("time steps", time, _NO_STATE)
    both = ("time steps or rows", batch * time, _NO_STATE)
    for use in _calls(module, run):
        for what, length, reason in (steps, rows, both):
            if length > 1 and _mixes(use, length):
                return f"{use.name!r} ({kind(use.module)}) mixes {what}; {reason}"
    return ""


def fixed_length(culprit: nn.Module, runs: Callable[[int], bool]) -> int | None:
    """Returns the only number of steps accepted by the module, if `culprit` has a fixed length.

    `runs` reports whether the module runs on sequences of a given length.
    """
    lengths: set[int] = set(getattr(culprit, "normalized_shape", ()))
    lengths.update(size for tensor in culprit.state_dict().values() for size in tensor.shape)
    for length in sorted(lengths):
        if length <= _LONGEST and runs(length) and not runs(length + 1):
            return length
    return None


def _calls(module: nn.Module, run: Callable[[], object]) -> list[_Use]:
    """Records the calls of submodules, innermost first, except recurrent submodules and modules
    around recurrent submodules."""
    found: list[_Use] = []

    def record(name: str) -> Any:
        def hook(submodule: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
            found.append(_Use(name, submodule, args, kwargs))

        return hook

    with ExitStack() as hooks:
        for name, submodule in module.named_modules():
            recurrent = (nn.RNNBase, nn.RNNCellBase)
            if any(isinstance(each, recurrent) for each in submodule.modules()):
                continue
            handle = submodule.register_forward_hook(record(name), with_kwargs=True)
            hooks.callback(handle.remove)
        with suppress(UnsupportedModule):  # calls before the error are worth a check too
            run()
    return found


def _mixes(use: _Use, length: int) -> bool:
    """Whether a change at a single index, on axes of this length, changes other indices."""
    place = length // 2
    changed = _Change(length, place)
    try:
        args = [changed(value) for value in use.args]
        kwargs = {name: changed(value) for name, value in use.kwargs.items()}
        if not changed.any:
            return False
        with torch.no_grad():
            before = list(_tensors(use.module(*use.args, **use.kwargs)))
            after = list(_tensors(use.module(*args, **kwargs)))
    except Exception:  # a user's module; the check only guesses the cause
        return False
    return any(_leaks(*pair, length, place) for pair in zip(before, after, strict=False))


class _Change:
    """Changes tensors at a single index of every axis of a given length."""

    def __init__(self, length: int, place: int) -> None:
        self._length = length
        self._place = place
        self._generator = torch.Generator().manual_seed(0)
        self.any = False

    def __call__(self, value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self, value))
        if isinstance(value, tuple | list):
            return type(value)(map(self, value))
        if not isinstance(value, Tensor) or self._length not in value.shape:
            return value
        value = value.clone()
        for axis in _axes(value, self._length):
            part = value.select(axis, self._place)
            if value.is_floating_point():
                noise = torch.randn(part.shape, generator=self._generator)
                part.add_(noise.to(part.dtype))
            else:
                part.copy_(part.flatten().roll(1).view(part.shape))  # only ids already in use
        self.any = True
        return value


def _leaks(before: Tensor, after: Tensor, length: int, place: int) -> bool:
    if before.shape != after.shape:
        return True
    axes = _axes(before, length)
    if not axes:
        return not _close(before, after)  # the module merged all steps or rows
    others = torch.arange(length) != place
    for axis in axes:
        at = others.nonzero().flatten()
        before, after = before.index_select(axis, at), after.index_select(axis, at)
    return not _close(before, after)


def _close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one.double(), two.double(), _TOLERANCE, _TOLERANCE, equal_nan=True)


def _axes(tensor: Tensor, length: int) -> Sequence[int]:
    return [axis for axis, size in enumerate(tensor.shape) if size == length]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
