"""A recurrent layer on its way from an ONNX operator to a Scan over int8 steps.

First its operator is made to read what the Scan will read, so that other parts of the graph can be
told from those that nobody needs any more; in the end the Scan takes its place (see `scan`).
"""

from dataclasses import dataclass

import numpy as np
import onnx

from elman_export.quantization.arithmetic import Arithmetic, Encoded
from elman_export.quantization.cells import ready_bias
from elman_export.quantization.codes import Codebook
from elman_export.quantization.operator import Cell
from elman_export.surgery.editor import Editor, inputs
from elman_server.spec import StateSpec


@dataclass(slots=True, kw_only=True)
class Layer:
    cell: Cell
    node: onnx.NodeProto
    bounded: bool
    """Whether its hidden state always lies between -1 and 1."""
    carried: StateSpec | None = None
    """The state that it carries from step to step as codes, if it does."""
    name: str = ""
    """Of the operator, once it reads codes."""
    gain: np.ndarray | None = None
    """What its input's codes are multiplied by; None if its gates' parts come ready."""

    def read_codes(self, editor: Editor, arithmetic: Arithmetic, codebook: Codebook) -> None:
        """Has the operator read `[time, 1, batch, n]`: its input's codes, or parts of its gates."""
        codes = codebook.find(self.node.input[0])
        features = next(iter(self.cell.gates.values())).w.shape[0]
        if codes is not None and codes.gain is not None and len(codes.gain) != features:
            codes = None
        shape = arithmetic.constant(np.array([0, 1, -1, features]))
        if codes is None:
            x = editor.node("Reshape", [self.node.input[0], shape])
            given = [self._part(editor, arithmetic, x, letter) for letter in self.cell.gates]
        else:
            x = codes.stacked or editor.node("Reshape", [codes.name, shape])
            gain = np.ones(features, np.float32) if codes.gain is None else codes.gain
            if self.bounded:
                self.gain, given = gain, [x]
            else:
                given = [
                    arithmetic.multiply(
                        editor, Encoded(x), gate.w * gain[:, None], ready_bias(self.cell, letter)
                    )
                    for letter, gate in self.cell.gates.items()
                ]
        states = [inputs(self.node, 5)]
        if self.cell.kind == "LSTM":
            states.append(inputs(self.node, 6))
        self.node.input[:] = [*states, *given]
        self.name = self.node.name = editor.fresh(f"{self.node.name or self.node.op_type}/int8")

    def _part(self, editor: Editor, arithmetic: Arithmetic, x: str, letter: str) -> str:
        """A float32 product, which may become int8 as others do."""
        weights = editor.constant(np.ascontiguousarray(self.cell.gates[letter].w), "elman/weights")
        product = editor.node("MatMul", [x, weights])
        bias = arithmetic.constant(ready_bias(self.cell, letter))
        return editor.node("Add", [product, bias])
