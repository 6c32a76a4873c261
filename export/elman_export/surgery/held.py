"""Plain RNN operators, rewritten as GRUs with constant gates.

ONNX Runtime's RNN operator rounds a batch of one row differently from larger batches; ONNX
Runtime's GRU does not. With the update gate held shut and the reset gate held open, a GRU computes
`f(Wx + Rh + b)`, as an RNN does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from elman_export.surgery import recurrent
from elman_export.surgery.editor import Editor, attributes, inputs

_BIAS = 10.0
_SLOPE = 1000.0
"""Steep enough for a gate to be 0 or 1, even if the operator clips the gate's input."""
_WITH_ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
_WITH_BETA = ("Affine", "ScaledTanh", "HardSigmoid")


def hold_gates(editor: Editor) -> None:
    """Rewrites the main graph's RNN operators with constant weights, in place."""
    constants = editor.constants()
    for operator in recurrent.find(editor.graph):
        node = operator.node
        weights = [inputs(node, index) for index in (1, 2, 3)]
        if node.op_type != "RNN" or operator.branches:
            continue
        if any(name and name not in constants for name in weights):
            continue
        given = attributes(node)
        size = operator.hidden_size
        w, r = constants[weights[0]], constants[weights[1]]
        b = constants[weights[2]] if weights[2] else np.zeros((1, 2 * size), w.dtype)
        held = np.concatenate([np.full((1, size), -_BIAS), np.full((1, size), _BIAS)], axis=1)
        wide = [held, b[:, :size], np.zeros((1, 2 * size)), b[:, size:]]
        node.op_type = "GRU"
        for index, value in (
            (1, np.concatenate([np.zeros_like(w), np.zeros_like(w), w], axis=1)),
            (2, np.concatenate([np.zeros_like(r), np.zeros_like(r), r], axis=1)),
            (3, np.concatenate(wide, axis=1).astype(w.dtype)),
        ):
            name = editor.constant(value, f"{weights[index - 1] or 'B'}/held")
            while len(node.input) <= index:
                node.input.append("")
            node.input[index] = name
        _activate(node, given, size)


def _activate(node: NodeProto, given: Mapping[str, Any], size: int) -> None:
    kind = (given.get("activations") or ["Tanh"])[0]
    alpha = [_SLOPE, *(list(given.get("activation_alpha", []))[:1] if kind in _WITH_ALPHA else [])]
    beta = [0.0, *(list(given.get("activation_beta", []))[:1] if kind in _WITH_BETA else [])]
    del node.attribute[:]
    changed = {
        "hidden_size": size,
        "linear_before_reset": 1,
        "activations": ["HardSigmoid", kind],
        "activation_alpha": alpha,
        "activation_beta": beta,
    }
    if given.get("clip"):
        changed["clip"] = given["clip"]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
