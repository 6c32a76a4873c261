"""Reads a recurrent ONNX operator: gates, weights and activations.

`read` raises `Kept` with the reason if an operator has no int8 form. This module knows ONNX's
conventions (the order of gates, defaults), but not how a step is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from elman_export.quantization.bounds import BOUNDED, UNIT
from elman_export.surgery import graphs

_GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
KINDS = tuple(_GATES)

_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
}
"""Activations that are also ONNX operators, with the defaults of their parameters."""


class Kept(Exception):
    """An operator that stays as it is. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation, as an ONNX operator with parameters."""

    operator: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Floats by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`x @ w + h @ r + w_bias + r_bias`."""

    w: np.ndarray
    """`[features, hidden]`."""
    r: np.ndarray
    """`[hidden, hidden]`."""
    w_bias: np.ndarray
    r_bias: np.ndarray
    peephole: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A recurrent layer: the weights, and the rules of a step."""

    kind: str
    """LSTM, GRU or RNN."""
    hidden: int
    gates: Mapping[str, Gate]
    """By ONNX's letters."""
    activations: tuple[Activation, ...]
    clip: float
    """The largest absolute value of an activation's input; 0 for no limit."""
    couples_gates: bool
    """Whether an LSTM's forget gate is 1 minus the input gate."""
    resets_late: bool
    """Whether a GRU's reset gate multiplies `h @ r + r_bias`, not `h`."""

    @property
    def bounded(self) -> bool:
        """Whether a state between -1 and 1 stays there."""
        last = self.activations[-1].operator in BOUNDED
        return last and (self.kind == "RNN" or self.activations[0].operator in UNIT)


def read(node: ir.Node) -> Cell:
    """Reads an operator. Raises `Kept` for an operator without an int8 form."""
    given = node.attributes
    if given.get_string("direction", "forward") != "forward":
        raise Kept("it does not run forward")
    if given.get_int("layout", 0):
        raise Kept("it has its batch first")
    states = (5, 6) if node.op_type == "LSTM" else (5,)
    if any(graphs.input_at(node, index) is None for index in states):
        raise Kept("it starts from zeros at every step")
    gates = _gates(node)
    return Cell(
        kind=node.op_type,
        hidden=len(next(iter(gates.values())).r),
        gates=gates,
        activations=tuple(_activations(node)),
        clip=given.get_float("clip", 0.0),
        couples_gates=bool(given.get_int("input_forget", 0)),
        resets_late=bool(given.get_int("linear_before_reset", 0)),
    )


def _gates(node: ir.Node) -> Mapping[str, Gate]:
    letters = _GATES[node.op_type]

    def constant(index: int) -> np.ndarray | None:
        given = graphs.input_at(node, index)
        if given is None:
            return None
        value = graphs.constant(given)
        if value is None:
            raise Kept("its weights are computed in the graph")
        if value.dtype != np.float32:
            raise Kept(f"its weights are {value.dtype}")
        if not np.isfinite(value).all():
            raise Kept("its weights are not finite")
        first: np.ndarray = value[0]
        return first

    w, r, b, p = constant(1), constant(2), constant(3), constant(7)
    assert w is not None and r is not None
    if b is None:
        b = np.zeros(2 * len(r), np.float32)
    w_bias, r_bias = np.split(b, 2)
    peepholes = {} if p is None else dict(zip("iof", np.split(p, 3), strict=True))
    parts = (np.split(each, len(letters)) for each in (w, r, w_bias, r_bias))
    return {
        letter: Gate(w=w_gate.T, r=r_gate.T, w_bias=wb, r_bias=rb, peephole=peepholes.get(letter))
        for letter, w_gate, r_gate, wb, rb in zip(letters, *parts, strict=True)
    }


def _activations(node: ir.Node) -> Iterator[Activation]:
    """The activations. Each takes parameters, in turn, from the operator's lists."""
    given = node.attributes
    lists = {name: iter(given.get_floats(f"activation_{name}", ())) for name in ("alpha", "beta")}
    known = {name.lower(): name for name in _PARAMETERS}
    for name in given.get_strings("activations", _ACTIVATIONS[node.op_type]):
        operator = known.get(name.lower())
        if operator is None:
            raise Kept(f"its activation {name} is no ONNX operator")
        yield Activation(
            operator,
            {
                parameter: next(lists[parameter], default)
                for parameter, default in _PARAMETERS[operator].items()
            },
        )
