"""A recurrent layer on its way from an ONNX operator to a Scan over int8 steps.

First, the operator reads the inputs of the future Scan, so that unneeded parts of the graph can be
found and removed. In the end, the Scan replaces the operator (see `scan`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic, Encoded
from elman_export.quantization.cells import ready_bias
from elman_export.quantization.codes import Codebook
from elman_export.quantization.operator import Cell, Kept
from elman_export.quantization.products import check_size
from elman_export.surgery.graphs import Builder, describe
from elman_server.model.spec import StateSpec

_LARGE_GATE = 16384
"""Weights of a gate with its own product. Smaller gates share one product, with fewer operators.

The sums of large gates would leave the cache before the split.
"""


@dataclass(slots=True, kw_only=True)
class Layer:
    """A recurrent layer to make int8."""

    cell: Cell
    node: ir.Node
    bounded: bool
    """Whether the hidden state always lies between -1 and 1."""
    carried: StateSpec | None = None
    """The state carried from step to step as codes, if any."""
    gain: np.ndarray | None = None
    """The factors of the input's codes; None if the gates' parts come ready."""

    def read_codes(
        self,
        builder: Builder,
        arithmetic: Arithmetic,
        codebook: Codebook,
        tell: Callable[[str], None],
    ) -> None:
        """Makes the operator read `[time, 1, batch, n]`: the input's codes, or parts of the gates.

        Calls `tell` with a line if the input's weights stay float32.
        """
        elements = self.node.inputs[0]
        assert elements is not None
        codes = codebook.find(elements)
        features = next(iter(self.cell.gates.values())).w.shape[0]
        if codes is not None and codes.gain is not None and len(codes.gain) != features:
            codes = None
        shape = arithmetic.constant(np.array([0, 1, -1, features]))
        if codes is None:
            x = builder.node("Reshape", [elements, shape])
            given = self._scaled(builder, arithmetic, codebook, x, tell)
        else:
            x = codes.stacked or builder.node("Reshape", [codes.value, shape])
            gain = np.ones(features, np.float32) if codes.gain is None else codes.gain
            if self.bounded:
                self.gain, given = gain, [x]
            else:
                given = [
                    arithmetic.multiply(
                        builder, Encoded(x), gate.w * gain[:, None], ready_bias(self.cell, letter)
                    )
                    for letter, gate in self.cell.gates.items()
                ]
        states = self.node.inputs[5:7] if self.cell.kind == "LSTM" else self.node.inputs[5:6]
        self.node.resize_inputs(len(states) + len(given))
        for index, value in enumerate((*states, *given)):
            self.node.replace_input_with(index, value)

    def _scaled(
        self,
        builder: Builder,
        arithmetic: Arithmetic,
        codebook: Codebook,
        x: ir.Value,
        tell: Callable[[str], None],
    ) -> list[ir.Value]:
        """An input's part in each gate, for an input of any values.

        Rows are scaled once for all gates, so the weights of all gates together must be worth the
        scaling.
        """
        weights = {letter: np.ascontiguousarray(g.w) for letter, g in self.cell.gates.items()}
        biases = {letter: ready_bias(self.cell, letter) for letter in weights}
        together = np.concatenate(list(weights.values()), axis=1)
        try:
            check_size(together.shape, scaled=True)
        except Kept as reason:
            tell(f"the input's weights of {describe(self.node)} stay float32: {reason}")
            return [
                builder.node(
                    "Add",
                    [
                        builder.node("MatMul", [x, builder.constant(weights[letter])]),
                        arithmetic.constant(biases[letter]),
                    ],
                )
                for letter in weights
            ]
        encoded = codebook.scaled(x)
        if together.size < len(weights) * _LARGE_GATE:
            bias = np.concatenate(list(biases.values()))
            product = arithmetic.multiply(builder, encoded, together, bias)
            return arithmetic.split(product, len(weights))
        return [
            arithmetic.multiply(builder, encoded, weights[letter], biases[letter])
            for letter in weights
        ]
