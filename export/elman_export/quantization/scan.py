"""The Scan of an int8 layer: connects tensors of the body with tensors of the surrounding graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper

from elman_export.quantization.arithmetic import Arithmetic, Body
from elman_export.quantization.cells import Input, ReadyInput, Step, TogetherInput
from elman_export.quantization.layer import Layer
from elman_export.surgery.editor import Editor, outputs

_Y, _H, _C, _CODES = range(4)
"""Output indices of a layer: the outputs in ONNX, then the codes of the first output."""


@dataclass(frozen=True, slots=True)
class _Tie:
    """A tensor `[1, batch, width]` of the body, and the tensor's name outside."""

    inner: str
    outer: str
    kind: Any
    width: int

    @property
    def info(self) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(self.inner, self.kind, [1, None, self.width])


def scan(
    editor: Editor, arithmetic: Arithmetic, layer: Layer, node: onnx.NodeProto, needed: set[str]
) -> onnx.NodeProto:
    """The Scan for `node` after `Layer.read_codes`, with the outputs in `needed`."""
    body = Body(editor)
    taken = list(_taken(editor, layer, node))
    count = 2 if layer.cell.kind == "LSTM" else 1
    step = Step(
        cell=layer.cell,
        input=_input(layer, [tie.inner for tie in taken[count:]], body, arithmetic),
        nodes=body,
        arithmetic=arithmetic,
        bounded=layer.bounded,
        coded=layer.carried is not None,
    )
    h, c = step.write(taken[0].inner, taken[1].inner if count == 2 else "")
    hidden = layer.cell.hidden
    coded = layer.carried is not None or outputs(node, _CODES) in needed
    codes = arithmetic.encode(body, h).codes if coded else ""

    def tie(inner: str, index: int) -> _Tie:
        kind = TensorProto.UINT8 if inner == codes else TensorProto.FLOAT
        return _Tie(inner, outputs(node, index) or editor.fresh(f"{node.name}/state"), kind, hidden)

    made = [tie(h if layer.carried is None else codes, _H)]
    if count == 2:
        made.append(tie(c, _C))
    for inner, index in ((h, _Y), (codes, _CODES)):
        if outputs(node, index) in needed:
            given = tie(inner, index)
            if any(inner == other.inner for other in made):
                given = replace(given, inner=body.node("Identity", [inner]))
            made.append(given)
    graph = helper.make_graph(
        body.nodes, node.name, [tie.info for tie in taken], [tie.info for tie in made]
    )
    return helper.make_node(
        "Scan",
        node.input,
        [tie.outer for tie in made],
        name=node.name,
        body=graph,
        num_scan_inputs=len(taken) - count,
    )


def _taken(editor: Editor, layer: Layer, node: onnx.NodeProto) -> Iterator[_Tie]:
    """The inputs of the body: states first, then the inputs of each step."""
    states = 2 if layer.cell.kind == "LSTM" else 1
    for index, name in enumerate(node.input):
        kind, width = TensorProto.FLOAT, layer.cell.hidden
        if index >= states and layer.gain is not None:
            kind, width = TensorProto.UINT8, len(layer.gain)
        elif index == 0 and layer.carried is not None:
            kind = TensorProto.UINT8
        yield _Tie(editor.fresh(f"{node.name}/{name}"), name, kind, width)


def _input(layer: Layer, given: Sequence[str], body: Body, arithmetic: Arithmetic) -> Input:
    gates = layer.cell.gates
    if layer.gain is not None:
        return TogetherInput(given[0], layer.gain, gates, body, arithmetic)
    parts = dict(zip(gates, given, strict=True))
    return ReadyInput(parts=parts, gates=gates, nodes=body, arithmetic=arithmetic)
