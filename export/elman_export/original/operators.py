"""Replacements for torch's recurrent layers while a step is traced to ONNX.

`RecurrentOperator` is called like the replaced layers and returns the same tensors. Each layer
becomes a single ONNX operator (or a function of `elman_export.original.functions`). States and row
lengths come from a `Carry`. `CellOperator` replaces a cell; the module passes the cell's state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from elman_export.original import functions
from elman_export.original.recurrence import RecurrentLayers

OPSET = 20
"""ONNX operator set of every step model, supported by ONNX Runtime 1.17 and newer."""

_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Gate order of ONNX as indices into torch's order: LSTM i,o,f,c for i,f,g,o; GRU z,r,h for r,z,n.
"""

Attribute = (
    int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]
)

_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(slots=True)
class Carry:
    """States before and after a step: `[1, batch, size]` by state name."""

    lengths: Tensor | None
    """int32 `[batch]`: number of elements in each row; `None` in a step of one element."""
    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)


class RecurrentOperator(nn.Module):
    """Replaces `layers` in a step. Calls and returned tensors are the same.

    With a `carry`, states come from the carry. An initial state in the call is only recorded, since
    a session's first state is part of the spec or computed separately. Without a `carry`, states
    come from the call, and the number of steps is fixed.

    The final hidden state is the output at the last step. The two are equal if no row is padded,
    and the output is also available for every other step.
    """

    carry: Carry | None = None
    final: tuple[Tensor, ...] = ()
    """Final states returned by the last call."""
    first: tuple[Tensor, ...] = ()
    """Initial states given to the last call, `[layers, batch, size]` by part."""

    def __init__(self, layers: RecurrentLayers) -> None:
        super().__init__()
        module = layers.module
        _resemble(self, module)
        self.batch_first = module.batch_first
        self.states = tuple(layers.states)
        self.sizes = tuple(layers.parts.values())
        self.layers = nn.ModuleList([_layer(module, layer) for layer in range(module.num_layers)])

    def forward(
        self, input: Tensor, hx: Tensor | Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """`input` is `[batch, time, features]`; without `batch_first`,
        `[time, batch, features]`."""
        x = input.transpose(0, 1) if self.batch_first else input
        if hx is not None:
            self.first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        elif self.carry is None:
            front = (len(self.layers), x.shape[1])
            self.first = tuple(x.new_zeros(*front, size) for size in self.sizes)
        final = []
        for number, layer in enumerate(self.layers):
            x, *states = self._run(number, layer, x)
            final.append((x[-1:], *states[1:]))
        self.final = tuple(torch.cat(states) for states in zip(*final, strict=True))
        if self.batch_first:
            x = x.transpose(0, 1)
        return x, self.final if len(self.final) > 1 else self.final[0]

    def flatten_parameters(self) -> None:
        """Does nothing: in torch, the method only matters on GPUs."""

    def _run(self, number: int, layer: nn.Module, x: Tensor) -> Sequence[Tensor]:
        if self.carry is None:
            initial = [states[number : number + 1] for states in self.first]
            found: Sequence[Tensor] = layer(x, None, initial)
            return found
        parts = len(self.sizes)
        names = self.states[number * parts :][:parts]
        found = layer(x, self.carry.lengths, [self.carry.before[name] for name in names])
        self.carry.after.update(zip(names, found[1:], strict=True))
        return found


class CellOperator(nn.Module):
    """Replaces an `nn.LSTMCell` or `nn.GRUCell` with a single ONNX operator."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        _resemble(self, cell)
        operator = "LSTM" if isinstance(cell, nn.LSTMCell) else "GRU"
        self.layer = _Operator(operator, cell.hidden_size, _weights(cell, ""))
        self.parts = 2 if operator == "LSTM" else 1

    def forward(self, input: Tensor, hx: Tensor | tuple[Tensor, Tensor] | None = None) -> object:
        states = [hx] if isinstance(hx, Tensor) else list(hx or ())
        if not states:
            states = [input.new_zeros(input.shape[0], self.layer.size)] * self.parts
        _, *states = self.layer(input.unsqueeze(0), None, [state.unsqueeze(0) for state in states])
        new = tuple(state.squeeze(0) for state in states)
        return new if self.parts > 1 else new[0]


def _resemble(operator: nn.Module, layer: nn.Module) -> None:
    """Copies the layer's attributes that modules may read: `hidden_size`, `num_layers`, ..."""
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            setattr(operator, name, value)


def _layer(module: nn.RNNBase, layer: int) -> nn.Module:
    weights = _weights(module, f"_l{layer}")
    if isinstance(module, nn.RNN):
        return _Plain(module.nonlinearity, weights)
    if module.proj_size:
        return _Projected(weights)
    return _Operator("LSTM" if isinstance(module, nn.LSTM) else "GRU", module.hidden_size, weights)


def _fixed(weight: Tensor) -> nn.Parameter:
    # A parameter, since modules take their type and device from next(self.parameters()).
    return nn.Parameter(weight, requires_grad=False)


def _weights(module: nn.RNNBase | nn.RNNCellBase, suffix: str) -> Mapping[str, Tensor]:
    """Weights in float32. Missing biases are zeros."""
    found: dict[str, Tensor] = {}
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
        value = getattr(module, f"{name}{suffix}", None)
        if isinstance(value, Tensor):
            found[name] = value.detach().float()
    zeros = torch.zeros(len(found["weight_hh"]))
    return {"bias_ih": zeros, "bias_hh": zeros, **found}


class _Operator(nn.Module):
    """A layer as a single LSTM or GRU operator, from `[time, batch, in]` and states to
    `[time, batch, size]` and states."""

    def __init__(self, operator: str, size: int, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operator = operator
        self.size = size
        self.attributes: dict[str, Attribute] = {"hidden_size": size}
        if operator == "GRU":
            self.attributes["linear_before_reset"] = 1
        order = _ORDERS[operator]

        def arrange(*names: str) -> Tensor:
            parts = [weights[name].chunk(len(order)) for name in names]
            return torch.cat([part[gate] for part in parts for gate in order]).unsqueeze(0)

        self.W = _fixed(arrange("weight_ih"))
        self.R = _fixed(arrange("weight_hh"))
        self.B = _fixed(arrange("bias_ih", "bias_hh"))

    def forward(self, x: Tensor, lengths: Tensor | None, states: Sequence[Tensor]) -> list[Tensor]:
        time, batch = x.shape[:2]
        y, *final = torch.onnx.ops.symbolic_multi_out(
            self.operator,
            [x, self.W, self.R, self.B, lengths, *states],
            attrs=self.attributes,
            dtypes=[x.dtype] * (1 + len(states)),
            shapes=[(time, 1, batch, self.size), *[(1, batch, self.size)] * len(states)],
            version=OPSET,
        )
        return [y.squeeze(1), *final]


class _Ours(nn.Module):
    """Weights of a layer in the layout of `functions.py`."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        bias = weights["bias_ih"].double() + weights["bias_hh"].double()
        self.W = _fixed(weights["weight_ih"].T.contiguous())
        self.R = _fixed(weights["weight_hh"].T.contiguous())
        self.B = _fixed(bias.float())


class _Plain(_Ours):
    """A layer of an `nn.RNN`."""

    def __init__(self, activation: str, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.activation = activation

    def forward(self, x: Tensor, lengths: Tensor | None, states: Sequence[Tensor]) -> list[Tensor]:
        (h,) = states
        if lengths is None:
            steps = []
            for inputs in (x @ self.W + self.B).unbind(0):
                h = _ACTIVATIONS[self.activation](inputs + h @ self.R)
                steps.append(h)
            return [torch.cat(steps), h]
        return torch.onnx.ops.symbolic_multi_out(
            f"{functions.RNN[self.activation]}::RNN",
            [x, self.W, self.R, self.B, lengths, h],
            dtypes=[x.dtype] * 2,
            shapes=[(*x.shape[:2], h.shape[2]), h.shape],
            version=1,
        )  # type: ignore[return-value]


class _Projected(_Ours):
    """A layer of an `nn.LSTM` with `proj_size`."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.P = _fixed(weights["weight_hr"].T.contiguous())

    def forward(self, x: Tensor, lengths: Tensor | None, states: Sequence[Tensor]) -> list[Tensor]:
        h, c = states
        if lengths is None:
            steps = []
            for inputs in (x @ self.W + self.B).unbind(0):
                i, f, g, o = (inputs + h @ self.R).chunk(4, dim=-1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = (o.sigmoid() * c.tanh()) @ self.P
                steps.append(h)
            return [torch.cat(steps), h, c]
        return torch.onnx.ops.symbolic_multi_out(
            f"{functions.PROJECTED}::LSTM",
            [x, self.W, self.R, self.B, lengths, h, c, self.P],
            dtypes=[x.dtype] * 3,
            shapes=[(*x.shape[:2], h.shape[2]), h.shape, c.shape],
            version=1,
        )  # type: ignore[return-value]
