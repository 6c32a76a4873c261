"""Number type of a module's computation, and conversion of a module to float32.

A step model always computes in float32. For a module of another type, the step model is compared
twice: with the module, to the precision of the module's type, and with the module's float32 twin,
to float32 precision. The second comparison detects a swapped state, which the first could mistake
for rounding.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elman_export.errors import UnsupportedModule
from elman_export.proof.proof import TOLERANCE
from elman_export.proof.stepmodel import Arrays

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

COARSE = {torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Default tolerance by the module's type, times the largest value in an output: rounding errors do
not shrink with the results.

Measured on untrained RNNs, GRUs and LSTMs (1 and 3 layers of 16 to 256 units, torch's initial
weights and twice these weights, 40 steps): a float16 module is up to 4e-3 of its largest output
away from float32, a bfloat16 module up to 4e-2.
"""

_OTHERS = frozenset(TYPES) - {torch.float32}
_CASTS = (Tensor.double, Tensor.half, Tensor.bfloat16)


def of(module: nn.Module) -> torch.dtype:
    """Returns the type of the module's parameters; float32 for a module without parameters.

    Raises `UnsupportedModule` for several types or an unsupported type.
    """
    named: dict[torch.dtype, str] = {}
    for name, parameter in module.named_parameters():
        if parameter.dtype.is_floating_point or parameter.dtype.is_complex:
            named.setdefault(parameter.dtype, name)
    for dtype, name in named.items():
        if dtype not in TYPES:
            raise UnsupportedModule(
                f"{name!r} is {_short(dtype)}; supported are {', '.join(map(_short, TYPES))}"
            )
    if len(named) > 1:
        parts = " and ".join(f"{name!r} is {_short(dtype)}" for dtype, name in named.items())
        raise UnsupportedModule(f"{parts}; bring the module to one type, as with .float()")
    return next(iter(named), torch.float32)


def tolerance(dtype: torch.dtype, answers: Sequence[Arrays]) -> float:
    """Tolerance of `proof.prove` for a module of this type with these answers."""
    if dtype not in COARSE:
        return TOLERANCE
    reach = 1.0
    for name in answers[0]:
        sizes = [np.abs(np.ma.compressed(each[name]).astype(float)) for each in answers]
        flat = np.concatenate(sizes)
        flat = flat[(flat > 0) & np.isfinite(flat)]
        if flat.size:
            reach = max(reach, float(flat.max() / np.median(flat)))
    return COARSE[dtype] * reach


def twin(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Returns a copy that computes in float32 inside of `float32`. `memo` is the memo of
    `copy.deepcopy`."""
    try:
        made = copy.deepcopy(module, memo)
    except Exception as error:  # an attribute of a user's module may raise anything
        message = " ".join(str(error).split())
        raise UnsupportedModule(
            f"{_uncopied(module) or type(module).__name__} can't be copied ({message}), and a step "
            "model is made of a copy. Keep locks, files and the like out of the module for the "
            "export; tensors that it keeps from a run, such as a hidden state, with .detach()"
        ) from error
    if of(module) is torch.float32:
        return made
    for submodule in made.modules():
        for name, value in vars(submodule).items():
            if isinstance(value, Tensor) and value.dtype in _OTHERS:
                setattr(submodule, name, value.float())
    return made.float()


def _uncopied(module: nn.Module) -> str:
    """Name of the submodule attribute that `copy.deepcopy` can't copy."""
    for name, submodule in module.named_modules():
        for attribute, value in vars(submodule).items():
            if attribute.startswith("_") or isinstance(value, nn.Module):
                continue
            try:
                copy.deepcopy(value)
            except Exception:  # an attribute of a user's module may raise anything
                return repr(f"{name}.{attribute}" if name else attribute)
    return ""


def float32(module: nn.Module) -> AbstractContextManager[object]:
    """Makes torch create float32 where `module`'s twin asks for another floating type.

    A float32 module runs unchanged: it may use other types on purpose.
    """
    return nullcontext() if of(module) is torch.float32 else _Float32()


class _Float32(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _CASTS:
            function = Tensor.float
        return function(*map(_float32, args), **{k: _float32(v) for k, v in (kwargs or {}).items()})


def _float32(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in _OTHERS else value


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
