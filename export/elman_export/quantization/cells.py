"""The step of an LSTM, GRU or RNN with int8 weights, by the formulas of ONNX's operators.

The input's part in a gate comes in two ways. `TogetherInput` multiplies the codes of the input and
of the hidden state together, by the weights of both. `ReadyInput` has parts computed beforehand for
all elements of a chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic, Encoded
from elman_export.quantization.operator import Activation, Cell, Gate
from elman_export.surgery.graphs import Builder


class Input(Protocol):
    """An element's part in the gates."""

    def with_hidden(self, letter: str, hidden: Encoded) -> ir.Value:
        """`x @ w + w_bias + h @ r + r_bias`."""
        ...

    def alone(self, letter: str) -> ir.Value:
        """`x @ w + w_bias`."""
        ...


class TogetherInput:
    """An element's codes; codes times `gain` (`[features]`) are the element's values."""

    def __init__(
        self,
        codes: ir.Value,
        gain: np.ndarray,
        gates: Mapping[str, Gate],
        nodes: Builder,
        arithmetic: Arithmetic,
    ) -> None:
        self._codes = codes
        self._gain = gain
        self._gates = gates
        self._nodes = nodes
        self._arithmetic = arithmetic
        self._joined: dict[ir.Value, ir.Value] = {}

    def with_hidden(self, letter: str, hidden: Encoded) -> ir.Value:
        gate = self._gates[letter]
        if hidden.codes not in self._joined:
            both = [self._codes, hidden.codes]
            self._joined[hidden.codes] = self._nodes.node("Concat", both, axis=-1)
        return self._arithmetic.multiply(
            self._nodes,
            Encoded(self._joined[hidden.codes]),
            np.concatenate([gate.w * self._gain[:, None], gate.r]),
            gate.w_bias + gate.r_bias,
        )

    def alone(self, letter: str) -> ir.Value:
        gate = self._gates[letter]
        weights = gate.w * self._gain[:, None]
        return self._arithmetic.multiply(self._nodes, Encoded(self._codes), weights, gate.w_bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyInput:
    """An element's part in each gate, including biases."""

    parts: Mapping[str, ir.Value]
    gates: Mapping[str, Gate]
    nodes: Builder
    arithmetic: Arithmetic

    def with_hidden(self, letter: str, hidden: Encoded) -> ir.Value:
        product = self.arithmetic.multiply(self.nodes, hidden, self.gates[letter].r)
        return self.nodes.node("Add", [self.parts[letter], product])

    def alone(self, letter: str) -> ir.Value:
        return self.parts[letter]


def ready_bias(cell: Cell, letter: str) -> np.ndarray:
    """The bias that a `ReadyInput` of `cell` includes in a gate's part."""
    gate = cell.gates[letter]
    return gate.w_bias if _resets_late(cell, letter) else gate.w_bias + gate.r_bias


def _resets_late(cell: Cell, letter: str) -> bool:
    return cell.kind == "GRU" and cell.resets_late and letter == "h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Writes the nodes of a step."""

    cell: Cell
    input: Input
    nodes: Builder
    arithmetic: Arithmetic
    bounded: bool
    """Whether the hidden state always lies between -1 and 1."""
    coded: bool
    """Whether the hidden state comes as codes."""

    def write(self, h: ir.Value, c: ir.Value | None) -> tuple[ir.Value, ...]:
        """Computes the next state, in float32, from `h` and, for an LSTM, `c`."""
        match self.cell.kind:
            case "LSTM":
                assert c is not None
                return self._lstm(h, c)
            case "GRU":
                return (self._gru(h),)
            case _:
                gate = self.input.with_hidden("h", self._hidden(h))
                return (self._activate(0, gate),)

    def _lstm(self, h: ir.Value, c: ir.Value) -> tuple[ir.Value, ir.Value]:
        hidden = self._hidden(h)
        taken = self._activate(0, self._gate("i", hidden, c))
        if self.cell.couples_gates:
            kept = self._node("Sub", self.arithmetic.shared("one", np.float32(1)), taken)
        else:
            kept = self._activate(0, self._gate("f", hidden, c))
        new = self._activate(1, self._gate("c", hidden))
        following = self._node("Add", self._node("Mul", taken, new), self._node("Mul", kept, c))
        shown = self._activate(0, self._gate("o", hidden, following))
        return self._node("Mul", shown, self._activate(2, following)), following

    def _gru(self, h: ir.Value) -> ir.Value:
        hidden = self._hidden(h)
        kept = self._activate(0, self._gate("z", hidden))
        reset = self._activate(0, self._gate("r", hidden))
        if self.cell.resets_late:
            gate = self.cell.gates["h"]
            product = self.arithmetic.multiply(self.nodes, hidden, gate.r, gate.r_bias)
            product = self._node("Mul", reset, product)
            candidate = self._node("Add", self.input.alone("h"), product)
        else:
            hidden = self._encode(self._node("Mul", reset, h))
            candidate = self.input.with_hidden("h", hidden)
        new = self._activate(1, candidate)
        # (1 - z) * new + z * h
        return self._node("Add", new, self._node("Mul", kept, self._node("Sub", h, new)))

    def _gate(self, letter: str, hidden: Encoded, c: ir.Value | None = None) -> ir.Value:
        gate = self.input.with_hidden(letter, hidden)
        peephole = self.cell.gates[letter].peephole
        if peephole is None or c is None:
            return gate
        return self._node("Add", gate, self._node("Mul", c, self.arithmetic.constant(peephole)))

    def _activate(self, index: int, value: ir.Value) -> ir.Value:
        activation: Activation = self.cell.activations[index]
        if self.cell.clip:
            clip = np.float32(self.cell.clip)
            limits = [self.arithmetic.constant(limit) for limit in (-clip, clip)]
            value = self._node("Clip", value, *limits)
        return self.nodes.node(activation.operator, [value], **activation.parameters)

    def _hidden(self, h: ir.Value) -> Encoded:
        return Encoded(h) if self.coded else self._encode(h)

    def _encode(self, h: ir.Value) -> Encoded:
        if self.bounded:
            return self.arithmetic.encode(self.nodes, h)
        return self.arithmetic.encode_rows(self.nodes, h)

    def _node(self, operator: str, *given: ir.Value) -> ir.Value:
        return self.nodes.node(operator, given)
