"""Plain RNN operators, rewritten as GRUs with constant gates.

ONNX Runtime's RNN operator rounds a batch of one row differently from larger batches; ONNX
Runtime's GRU does not. With the update gate held shut and the reset gate held open, a GRU computes
`f(Wx + Rh + b)`, as an RNN does.
"""

import numpy as np
import onnx_ir as ir

from elman_export.surgery import graphs, recurrent
from elman_export.surgery.graphs import Builder

_BIAS = 10.0
_SLOPE = 1000.0
"""Steep enough for a gate to be 0 or 1, even if the operator clips the gate's input."""
_WITH_ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
_WITH_BETA = ("Affine", "ScaledTanh", "HardSigmoid")


def hold_gates(model: ir.Model) -> None:
    """Rewrites the main graph's RNN operators with constant weights, in place."""
    builder = Builder(model)
    for operator in recurrent.find(model.graph):
        node = operator.node
        if node.op_type != "RNN" or operator.branches:
            continue
        weights = [graphs.input_at(node, index) for index in (1, 2, 3)]
        w, r, b = (graphs.constant(each) for each in weights)
        if w is None or r is None or (b is None and weights[2] is not None):
            continue
        size = operator.hidden_size
        if b is None:
            b = np.zeros((1, 2 * size), w.dtype)
        held = np.concatenate([np.full((1, size), -_BIAS), np.full((1, size), _BIAS)], axis=1)
        wide = [held, b[:, :size], np.zeros((1, 2 * size)), b[:, size:]]
        for index, name, value in (
            (1, "W", np.concatenate([np.zeros_like(w), np.zeros_like(w), w], axis=1)),
            (2, "R", np.concatenate([np.zeros_like(r), np.zeros_like(r), r], axis=1)),
            (3, "B", np.concatenate(wide, axis=1).astype(w.dtype)),
        ):
            operator.set_input(index, builder.constant(value, f"elman/{name}/held"))
        node.op_type = "GRU"
        _activate(node, size)


def _activate(node: ir.Node, size: int) -> None:
    given = node.attributes
    kind = given.get_strings("activations", ("Tanh",))[0]
    alpha = given.get_floats("activation_alpha", ())[:1] if kind in _WITH_ALPHA else ()
    beta = given.get_floats("activation_beta", ())[:1] if kind in _WITH_BETA else ()
    clip = given.get_float("clip", 0.0)
    given.clear()
    given.add(ir.AttrInt64("hidden_size", size))
    given.add(ir.AttrInt64("linear_before_reset", 1))
    given.add(ir.AttrStrings("activations", ["HardSigmoid", kind]))
    given.add(ir.AttrFloat32s("activation_alpha", [_SLOPE, *alpha]))
    given.add(ir.AttrFloat32s("activation_beta", [0.0, *beta]))
    if clip:
        given.add(ir.AttrFloat32("clip", clip))
