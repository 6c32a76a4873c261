"""The Scan of an int8 layer: connects tensors of the body with tensors of the surrounding graph."""

from collections.abc import Sequence

import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic
from elman_export.quantization.cells import Input, ReadyInput, Step, TogetherInput
from elman_export.quantization.layer import Layer
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder

_Y, _H, _C, _CODES = range(4)
"""Output indices of a layer: the outputs in ONNX, then the codes of the first output."""


def put_scan(builder: Builder, arithmetic: Arithmetic, layer: Layer) -> None:
    """Puts a Scan in the place of a layer's operator, after `Layer.read_codes`."""
    node = layer.node
    assert node.graph is not None
    name = builder.fresh(f"{node.name or node.op_type}/int8")
    states = 2 if layer.cell.kind == "LSTM" else 1
    taken = [_taken(builder, layer, index, states) for index in range(len(node.inputs))]
    body = ir.Graph(taken, [], nodes=(), name=name)
    inside = builder.within(body)
    step = Step(
        cell=layer.cell,
        input=_input(layer, taken[states:], inside, arithmetic),
        nodes=inside,
        arithmetic=arithmetic,
        bounded=layer.bounded,
        coded=layer.carried is not None,
    )
    h, *c = step.write(taken[0], taken[1] if states == 2 else None)
    codes = None
    if layer.carried is not None or _is_needed(node, _CODES):
        codes = arithmetic.encode(inside, h).codes
    made = [(_H, h if layer.carried is None or codes is None else codes)]
    made += [(_C, each) for each in c]
    for index, value in ((_Y, h), (_CODES, codes)):
        if value is not None and _is_needed(node, index):
            if any(value is other for _, other in made):
                value = inside.node("Identity", [value])
            made.append((index, value))
    for index, value in made:
        is_coded = index == _CODES or (index == _H and layer.carried is not None)
        _declare(value, layer.cell.hidden, is_coded)
        body.outputs.append(value)
    scan = ir.node(
        "Scan",
        node.inputs,
        {"body": body, "num_scan_inputs": len(taken) - states},
        num_outputs=len(made),
        name=name,
    )
    for (index, _), value in zip(made, scan.outputs, strict=True):
        value.name = builder.fresh(f"{name}/state")
        if (old := graphs.output_at(node, index)) is not None:
            builder.take_over(old, value)
    node.graph.insert_before(node, scan)
    graphs.remove(node)


def _is_needed(node: ir.Node, index: int) -> bool:
    value = graphs.output_at(node, index)
    return value is not None and (value.is_graph_output() or bool(value.uses()))


def _taken(builder: Builder, layer: Layer, index: int, states: int) -> ir.Value:
    """An input of the body: states first, then the inputs of each step."""
    outer = layer.node.inputs[index]
    assert outer is not None
    value = ir.Value(name=builder.fresh(f"{layer.node.name}/{outer.name}"))
    if index >= states and layer.gain is not None:
        _declare(value, len(layer.gain), True)
    else:
        _declare(value, layer.cell.hidden, index == 0 and layer.carried is not None)
    return value


def _declare(value: ir.Value, width: int, coded: bool) -> None:
    graphs.set_type(value, "uint8" if coded else "float32", [1, None, width])


def _input(
    layer: Layer, given: Sequence[ir.Value], nodes: Builder, arithmetic: Arithmetic
) -> Input:
    gates = layer.cell.gates
    if layer.gain is not None:
        return TogetherInput(given[0], layer.gain, gates, nodes, arithmetic)
    parts = dict(zip(gates, given, strict=True))
    return ReadyInput(parts=parts, gates=gates, nodes=nodes, arithmetic=arithmetic)
