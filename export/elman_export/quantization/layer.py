"""A recurrent layer on its way from an ONNX operator to a Scan over int8 steps.

First its operator is made to read what the Scan will read, so that other parts of the graph can be
told from those that nobody needs any more; in the end the Scan takes its place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from elman_export.quantization.arithmetic import Arithmetic, Body, Encoded
from elman_export.quantization.cells import Input, ReadyInput, Step, TogetherInput, ready_bias
from elman_export.quantization.codes import Codebook
from elman_export.quantization.operator import Cell
from elman_export.surgery.editor import Editor, inputs, outputs

_Y, _H, _C, _CODES = range(4)
"""Outputs: those of ONNX's operators, and the first one's codes."""


@dataclass(slots=True, kw_only=True)
class Layer:
    cell: Cell
    node: onnx.NodeProto
    bounded: bool
    """Whether its hidden state always lies between -1 and 1."""
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

    def scan(
        self, editor: Editor, arithmetic: Arithmetic, node: onnx.NodeProto, needed: set[str]
    ) -> onnx.NodeProto:
        """The Scan that stands for `node`, as `read_codes` left it; it makes what is needed."""
        body = Body(editor)
        inner = [editor.fresh(f"{node.name}/{name}") for name in node.input]
        states = ["h", "c"] if self.cell.kind == "LSTM" else ["h"]
        h, c = inner[0], inner[1] if len(states) > 1 else ""
        given = inner[len(states) :]
        following = self._step(body, arithmetic, given).write(h, c)
        made = [*following][: len(states)]
        kinds = [TensorProto.FLOAT] * len(states)
        outer = [outputs(node, index) or editor.fresh(f"{node.name}/state") for index in (_H, _C)]
        outer = outer[: len(states)]
        for index in (_Y, _CODES):
            if outputs(node, index) in needed:
                outer.append(node.output[index])
                if index == _Y:
                    made.append(body.node("Identity", [made[0]]))
                    kinds.append(TensorProto.FLOAT)
                else:
                    made.append(arithmetic.encode(body, made[0]).codes)
                    kinds.append(TensorProto.UINT8)
        takes = TensorProto.FLOAT if self.gain is None else TensorProto.UINT8
        width = self.cell.hidden if self.gain is None else len(self.gain)
        graph = helper.make_graph(
            body.nodes,
            node.name,
            [
                *(
                    _info(name, TensorProto.FLOAT, self.cell.hidden)
                    for name in inner[: len(states)]
                ),
                *(_info(name, takes, width) for name in given),
            ],
            [_info(name, kind, self.cell.hidden) for name, kind in zip(made, kinds, strict=True)],
        )
        return helper.make_node(
            "Scan", node.input, outer, name=node.name, body=graph, num_scan_inputs=len(given)
        )

    def _step(self, body: Body, arithmetic: Arithmetic, given: list[str]) -> Step:
        taken: Input
        if self.gain is not None:
            taken = TogetherInput(given[0], self.gain, self.cell.gates, body, arithmetic)
        else:
            taken = ReadyInput(
                parts=dict(zip(self.cell.gates, given, strict=True)),
                gates=self.cell.gates,
                nodes=body,
                arithmetic=arithmetic,
            )
        return Step(
            cell=self.cell, input=taken, nodes=body, arithmetic=arithmetic, bounded=self.bounded
        )


def _info(name: str, kind: Any, width: int) -> onnx.ValueInfoProto:
    """`[1, batch, width]`."""
    return helper.make_tensor_value_info(name, kind, [1, None, width])
