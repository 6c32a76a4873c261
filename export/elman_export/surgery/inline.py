"""Inlines Ifs: a branch taken in every run replaces the If.

Exporters write an If wherever a script asks for a rank or an option. The If is inlined where the
condition does not depend on values of the sequence, and is the same for every tried size.
"""

from collections.abc import Sequence

import numpy as np
import onnx

from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import trace
from elman_export.surgery.editor import Editor, branches, places, reads
from elman_export.surgery.onnxnodes import SIZES_ONLY


def inline(editor: Editor, feeds: Sequence[Arrays]) -> None:
    """Inlines branches in place; `feeds` are inputs of the graph, of several sizes."""
    while True:
        fixed = _fixed(editor)
        conditions = {
            node.input[0]: node
            for node in editor.graph.node
            if node.op_type == "If" and node.input[0] in fixed
        }
        if not conditions:
            return
        runs = [trace.run(editor.model, feed, list(conditions)) for feed in feeds]
        inlined = False
        for name in conditions:
            seen = {bool(np.reshape(run[name], -1)[0]) for run in runs}
            if len(seen) == 1:
                for node in [n for n in editor.graph.node if n.op_type == "If"]:
                    if node.input[0] == name:
                        _put(editor, node, taken=seen.pop() if seen else False)
                        inlined = True
                        break
        if not inlined:
            return
        editor.lift_constants()
        editor.sort()


def _fixed(editor: Editor) -> set[str]:
    """Names computed only from constants and sizes of inputs."""
    fixed = {each.name for each in editor.graph.initializer}
    for node in editor.graph.node:
        if node.op_type in SIZES_ONLY or reads(node) <= fixed:
            fixed.update(name for name in node.output if name)
    return fixed


def _put(editor: Editor, node: onnx.NodeProto, *, taken: bool) -> None:
    wanted = "then_branch" if taken else "else_branch"
    (branch,) = (each.graph for each in branches(node) if each.attribute == wanted)
    graph = onnx.GraphProto()
    graph.CopyFrom(branch)
    results = list(node.output)
    editor.graph.node.remove(node)
    names = {
        name: editor.fresh(name if name.startswith("elman/") else f"elman/{name}")
        for inner in graph.node
        for name in inner.output
        if name
    }
    names |= {each.name: editor.fresh(f"elman/{each.name}") for each in graph.initializer}
    for place in places(graph):
        place.node.input[:] = [names.get(name, name) for name in place.node.input]
        if not place.branches:
            place.node.output[:] = [names.get(name, name) for name in place.node.output]
        for inside in branches(place.node):
            for value in inside.graph.output:
                value.name = names.get(value.name, value.name)
    for each in graph.initializer:
        each.name = names[each.name]
    editor.graph.initializer.extend(graph.initializer)
    editor.graph.node.extend(graph.node)
    for result, value in zip(results, graph.output, strict=True):
        editor.node("Identity", [names.get(value.name, value.name)], result)
