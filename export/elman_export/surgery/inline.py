"""Inlines Ifs: a branch taken in every run replaces the If.

Exporters write an If wherever a script asks for a rank or an option. The If is inlined where the
condition does not depend on values of the sequence, and is the same for every tried size.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import graphs, trace
from elman_export.surgery.graphs import Builder
from elman_export.surgery.onnxnodes import SIZES_ONLY


def inline(model: ir.Model, feeds: Sequence[Arrays]) -> None:
    """Inlines branches in place; `feeds` are inputs of the graph, of several sizes."""
    while ifs := _decided(model.graph):
        runs = [trace.run(model, feed, list(ifs.values())) for feed in feeds]
        inlined = False
        for node, condition in ifs.items():
            seen = {bool(np.reshape(run[condition], -1)[0]) for run in runs}
            if len(seen) == 1:
                _put(model, node, taken=seen.pop())
                inlined = True
        if not inlined:
            return


def _decided(graph: ir.Graph) -> dict[ir.Node, str]:
    """The Ifs with conditions computed only from constants and sizes of inputs, with the names of
    the conditions."""
    fixed = set(graph.initializers.values())
    for node in graph:
        if node.op_type in SIZES_ONLY or graphs.reads(node) <= fixed:
            fixed.update(node.outputs)
    return {
        node: str(condition.name)
        for node in graph
        if node.op_type == "If" and (condition := node.inputs[0]) in fixed and condition
    }


def _put(model: ir.Model, node: ir.Node, *, taken: bool) -> None:
    """Puts the nodes of a branch in the place of the If."""
    graph, builder = model.graph, Builder(model)
    branch = node.attributes["then_branch" if taken else "else_branch"].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        value.name = builder.fresh(f"elman/{value.name}")
        graph.initializers.add(value)
    nodes = list(branch)
    for value in graphs.values(branch):
        if not str(value.name).startswith("elman/"):
            value.name = f"elman/{value.name}"
        value.name = builder.fresh(str(value.name))
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        builder.take_over(old, builder.node("Identity", [new]))
    graphs.remove(node)
    graphs.lift_constants(graph)
    graph.sort()
