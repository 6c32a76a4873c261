"""Recurrent layers of a module, and the state of each layer.

`find` lists a module's `nn.RNN`, `nn.LSTM` and `nn.GRU` submodules and rejects layers that can't
process a stream. This module does not depend on ONNX. `elman_export.original.operators` has the
layers' replacements in a graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from elman_export.errors import UnsupportedModule

KINDS: tuple[type[nn.RNNBase], ...] = (nn.RNN, nn.GRU, nn.LSTM)
CELLS: tuple[type[nn.RNNCellBase], ...] = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentLayers:
    """An `nn.RNN`, `nn.LSTM` or `nn.GRU` (of one or more layers) and its name in the module."""

    name: str
    """Dotted, as in `named_modules`. If the module itself is recurrent: the type's name in lower
    case."""
    module: nn.RNNBase

    @property
    def parts(self) -> Mapping[str, int]:
        """Tensors of the state and their sizes: the hidden state and, for an LSTM, the
        cell state."""
        hidden = self.module.proj_size or self.module.hidden_size
        if isinstance(self.module, nn.LSTM):
            return {"h": hidden, "c": self.module.hidden_size}
        return {"h": hidden}

    @property
    def states(self) -> Mapping[str, int]:
        """State sizes by name, by layer, then part: `lstm.0.h`, `lstm.0.c`, `lstm.1.h`, ..."""
        return {
            f"{self.name}.{layer}.{part}": size
            for layer in range(self.module.num_layers)
            for part, size in self.parts.items()
        }


def find(module: nn.Module) -> tuple[RecurrentLayers, ...]:
    """Returns the recurrent submodules of `module`, outermost first, then in the order of
    registration.

    Raises `UnsupportedModule` for a layer that can't process a stream, for a cell, and for a module
    without recurrent layers.
    """
    found = []
    for path, submodule in module.named_modules():
        name = path or type(submodule).__name__.lower()
        if isinstance(submodule, nn.RNNCellBase):
            raise UnsupportedModule(_of_cell(name, submodule))
        if isinstance(submodule, nn.RNNBase):
            _check(name, submodule)
            found.append(RecurrentLayers(name=name, module=submodule))
    if not found:
        raise UnsupportedModule(
            f"{type(module).__name__} has no nn.RNN, nn.LSTM or nn.GRU, so no state to carry. A "
            "recurrence of its own is exported as one step: a forward that takes one element and "
            "the state, forward(x, h), and returns outputs and the new state, and "
            "states=[elman_export.state('h', SIZE)]"
        )
    return tuple(found)


def plain(module: nn.RNNBase | nn.RNNCellBase) -> bool:
    """Whether torch's own forward computes the module, step after step."""
    ours = {each.forward for each in (*KINDS, *CELLS)}
    return type(module).forward in ours and not getattr(module, "bidirectional", False)


def kind(module: nn.Module) -> str:
    """Class name for messages: `nn.LSTM`, or the bare name of a class outside torch."""
    cls = type(module)
    return f"nn.{cls.__name__}" if cls.__module__.startswith("torch.nn.") else cls.__name__


def _of_cell(name: str, cell: nn.RNNCellBase) -> str:
    size = cell.hidden_size
    if isinstance(cell, nn.LSTMCell):
        arguments = "(h, c)"
        states = f"(elman_export.state('h', {size}), elman_export.state('c', {size}))"
    else:
        arguments, states = "h", f"elman_export.state('h', {size})"
    return (
        f"{name!r} is an {kind(cell)}: a loop over time in forward keeps its state where no step "
        "can take it up. Give the module a forward for one element that takes the state and "
        f"returns the new one, forward(x, {arguments}) -> y, {arguments}, and export it with "
        f"states=[{states}]"
    )


def _check(name: str, module: nn.RNNBase) -> None:
    ours = next((each for each in KINDS if isinstance(module, each)), nn.RNNBase)
    if type(module).forward is not ours.forward:
        raise UnsupportedModule(
            f"{name!r} is a {type(module).__name__} with a forward of its own; only what nn.RNN, "
            "nn.LSTM and nn.GRU compute by themselves is known"
        )
    if module.bidirectional:
        raise UnsupportedModule(
            f"{name!r} is bidirectional: it reads each sequence from its end too, "
            "and a stream has no end to read from"
        )
