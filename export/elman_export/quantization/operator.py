"""Reads a recurrent ONNX operator: gates, weights and activations.

`read` raises `Kept` with the reason if an operator has no int8 form. This module knows ONNX's
conventions (the order of gates, defaults), but not how a step is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from elman_export.quantization.bounds import BOUNDED, UNIT
from elman_export.surgery.editor import attributes, inputs

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
    parameters: Mapping[str, float] = field(default_factory=dict)


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


def read(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> Cell:
    """Reads an operator. Raises `Kept` for an operator without an int8 form."""
    given = attributes(node)
    if given.get("direction", "forward") != "forward":
        raise Kept("it does not run forward")
    if given.get("layout", 0):
        raise Kept("it has its batch first")
    if not inputs(node, 5) or (node.op_type == "LSTM" and not inputs(node, 6)):
        raise Kept("it starts from zeros at every step")
    gates = _gates(node, constants)
    return Cell(
        kind=node.op_type,
        hidden=len(next(iter(gates.values())).r),
        gates=gates,
        activations=tuple(_activations(node.op_type, given)),
        clip=float(given.get("clip", 0.0)),
        couples_gates=bool(given.get("input_forget", 0)),
        resets_late=bool(given.get("linear_before_reset", 0)),
    )


def _gates(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> Mapping[str, Gate]:
    letters = _GATES[node.op_type]

    def constant(index: int) -> np.ndarray | None:
        name = inputs(node, index)
        if not name:
            return None
        if name not in constants:
            raise Kept("its weights are computed in the graph")
        if constants[name].dtype != np.float32:
            raise Kept(f"its weights are {constants[name].dtype}")
        if not np.isfinite(constants[name]).all():
            raise Kept("its weights are not finite")
        value: np.ndarray = constants[name][0]
        return value

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


def _activations(kind: str, given: Mapping[str, object]) -> Iterator[Activation]:
    """The activations. Each takes parameters, in turn, from the operator's lists."""
    names = given.get("activations", _ACTIVATIONS[kind])
    lists = {
        name: iter(_numbers(given.get(f"activation_{name}", ()))) for name in ("alpha", "beta")
    }
    known = {name.lower(): name for name in _PARAMETERS}
    assert isinstance(names, Sequence)
    for name in names:
        operator = known.get(str(name).lower())
        if operator is None:
            raise Kept(f"its activation {name} is no ONNX operator")
        yield Activation(
            operator,
            {
                parameter: next(lists[parameter], default)
                for parameter, default in _PARAMETERS[operator].items()
            },
        )


def _numbers(values: object) -> Sequence[float]:
    assert isinstance(values, Sequence)
    return [float(value) for value in values]
