"""The recurrent layers of a module: which can become ONNX operators, and how.

`find` lists a module's `nn.RNN`, `nn.LSTM` and `nn.GRU` submodules and refuses those with no exact
counterpart. `RecurrentOperator` stands in for one of them while a step is traced: the same call,
the same results, but one ONNX operator per layer, with its state and the rows' lengths taken from a
`Carry`. Nothing here knows about files, specs or what surrounds the layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule

OPSET = 20
"""The ONNX operator set of every step model: ONNX Runtime 1.17 and newer run it."""

# ONNX Runtime's RNN operator rounds a batch of one otherwise than larger ones, its GRU does not;
# and with its update gate held shut and its reset gate open, it computes h' = tanh(Wx + Rh + b).
_OPERATORS: Mapping[type[nn.RNNBase], str] = {nn.RNN: "GRU", nn.GRU: "GRU", nn.LSTM: "LSTM"}

_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


Attribute = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentLayers:
    """A `nn.RNN`, `nn.LSTM` or `nn.GRU` (of one or more layers) and its name in the module."""

    name: str
    """Dotted, as in `named_modules`; a module that is itself recurrent has its type's name."""
    module: nn.RNNBase

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors of its state: the hidden one and, for an LSTM, the cell."""
        return ("h", "c") if isinstance(self.module, nn.LSTM) else ("h",)

    @property
    def state_names(self) -> tuple[str, ...]:
        """By layer, then part: `lstm.0.h`, `lstm.0.c`, `lstm.1.h`, ..."""
        return tuple(
            f"{self.name}.{layer}.{part}"
            for layer in range(self.module.num_layers)
            for part in self.parts
        )


@dataclass(slots=True)
class Carry:
    """The state that one step is handed and hands on: `[1, batch, hidden]` by state name."""

    lengths: Tensor
    """int32 `[batch]`: how many elements each row has."""
    taken: dict[str, Tensor]
    given: dict[str, Tensor] = field(default_factory=dict)


class RecurrentOperator(nn.Module):
    """Stands in for `layers` in a step: called the same way, it returns the same tensors.

    An initial state in the call is ignored: the state comes from `carry`, and the first one of a
    session is part of the spec.
    """

    carry: Carry | None = None
    final: tuple[Tensor, ...] = ()
    """What the last call returned beside the outputs."""

    def __init__(self, layers: RecurrentLayers) -> None:
        super().__init__()
        module = layers.module
        self.operator = _OPERATORS[_kind(module)]
        self.attributes = _attributes(module)
        self.batch_first = module.batch_first
        self.hidden_size = module.hidden_size
        self.layers = range(module.num_layers)
        self.parts = layers.parts
        self.state_names = layers.state_names
        for layer in self.layers:
            for role, weight in _weights(module, layer).items():
                self.register_buffer(f"{role}{layer}", weight)

    def forward(self, x: Tensor, hx: object = None) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """`x` is `[batch, time, features]`, or `[time, batch, features]` without `batch_first`."""
        if self.carry is None:
            raise RuntimeError("a RecurrentOperator runs only while a step is traced")
        if self.batch_first:
            x = x.transpose(0, 1)
        final: dict[str, list[Tensor]] = {part: [] for part in self.parts}
        for layer in self.layers:
            names = self.state_names[layer * len(self.parts) :][: len(self.parts)]
            x, *states = self._run(layer, x, [self.carry.taken[name] for name in names])
            self.carry.given.update(zip(names, states, strict=True))
            for part, state in zip(self.parts, states, strict=True):
                final[part].append(state)
        if self.batch_first:
            x = x.transpose(0, 1)
        self.final = tuple(torch.cat(states) for states in final.values())
        return x, self.final if len(self.final) > 1 else self.final[0]

    def _run(self, layer: int, x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """One ONNX operator: `[time, batch, features]` in; the same and the final states out."""
        assert self.carry is not None
        time, batch = x.shape[:2]
        weights = [self.get_buffer(f"{role}{layer}") for role in ("W", "R", "B")]
        y, *final = torch.onnx.ops.symbolic_multi_out(
            self.operator,
            [x, *weights, self.carry.lengths, *states],
            attrs=self.attributes,
            dtypes=[x.dtype] * (1 + len(states)),
            shapes=[
                (time, 1, batch, self.hidden_size),
                *[(1, batch, self.hidden_size)] * len(states),
            ],
            version=OPSET,
        )
        return [y.squeeze(1), *final]


def find(module: nn.Module) -> tuple[RecurrentLayers, ...]:
    """The recurrent submodules of `module`, outermost and first registered first.

    Raises `UnsupportedModule` for one that ONNX's operators can't stand in for exactly, and where
    there is none at all.
    """
    found = []
    for path, submodule in module.named_modules():
        name = path or type(submodule).__name__.lower()
        if isinstance(submodule, _CELLS):
            raise UnsupportedModule(
                f"{name!r} is an nn.{type(submodule).__name__}, whose state the module keeps by "
                f"itself; use nn.{type(submodule).__name__.removesuffix('Cell')}"
            )
        if isinstance(submodule, nn.RNNBase):
            _check(name, submodule)
            found.append(RecurrentLayers(name=name, module=submodule))
    if not found:
        raise UnsupportedModule(
            f"{type(module).__name__} has no nn.RNN, nn.LSTM or nn.GRU, so no state to carry"
        )
    return tuple(found)


def _check(name: str, module: nn.RNNBase) -> None:
    if type(module).forward is not _kind(module).forward:
        raise UnsupportedModule(
            f"{name!r} is a {type(module).__name__} with a forward of its own; only those of "
            "nn.RNN, nn.LSTM and nn.GRU have an ONNX operator"
        )
    if module.bidirectional:
        raise UnsupportedModule(
            f"{name!r} is bidirectional: it reads each sequence from its end too, "
            "and a stream has no end to read from"
        )
    if module.proj_size:
        raise UnsupportedModule(
            f"{name!r} has proj_size={module.proj_size}; ONNX's LSTM has no projection"
        )
    dtype = module.weight_ih_l0.dtype
    if dtype is not torch.float32:
        raise UnsupportedModule(
            f"{name!r} has {str(dtype).removeprefix('torch.')} weights; only float32 is supported"
        )


def _kind(module: nn.RNNBase) -> type[nn.RNNBase]:
    """Which of torch's three classes the module is of, directly or as a subclass."""
    return next((kind for kind in _OPERATORS if isinstance(module, kind)), nn.RNNBase)


def _attributes(module: nn.RNNBase) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {"hidden_size": module.hidden_size}
    if isinstance(module, nn.GRU | nn.RNN):
        attributes["linear_before_reset"] = 1
    if isinstance(module, nn.RNN):
        # max(0, min(1, 1 * bias + 0)): exactly 0 or 1 for the two biases below.
        attributes["activations"] = ["HardSigmoid", module.nonlinearity.capitalize()]
        attributes["activation_alpha"] = [1.0]
        attributes["activation_beta"] = [0.0]
    return attributes


def _weights(module: nn.RNNBase, layer: int) -> Mapping[str, Tensor]:
    """ONNX's `W [1, gates*hidden, in]`, `R [1, gates*hidden, hidden]` and `B [1, 2*gates*hidden]`.

    ONNX has the gates in other orders than torch: LSTM i,o,f,c for i,f,g,o; GRU z,r,h for r,z,n.
    """

    def gates(name: str) -> list[Tensor]:
        tensor: Tensor = getattr(module, f"{name}_l{layer}").detach()
        if isinstance(module, nn.LSTM):
            i, f, g, o = tensor.chunk(4)
            return [i, o, f, g]
        if isinstance(module, nn.GRU):
            r, z, n = tensor.chunk(3)
            return [z, r, n]
        return [torch.zeros_like(tensor), torch.zeros_like(tensor), tensor]

    w, r = gates("weight_ih"), gates("weight_hh")
    if module.bias:
        b = [*gates("bias_ih"), *gates("bias_hh")]
    else:
        b = [torch.zeros(module.hidden_size)] * 2 * len(w)
    if isinstance(module, nn.RNN):
        b[0], b[1] = torch.full_like(b[0], -10), torch.full_like(b[1], 10)
    return {role: torch.cat(rows).unsqueeze(0) for role, rows in (("W", w), ("R", r), ("B", b))}
