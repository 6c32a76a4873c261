"""Sources of the first states of recurrent operators."""

import onnx

from elman_export.surgery import onnxnodes, recurrent
from elman_export.surgery.onnxnodes import SIZES_ONLY, inputs


def feeding_states(model: onnx.ModelProto) -> set[str] | None:
    """Returns the names used to compute the first states of recurrent operators, except names used
    only for sizes; `None` if the graph has no recurrent operators."""
    reads: dict[str, set[str]] = {}
    waiting: list[str] = []
    found_any = False
    for node in onnxnodes.nodes(model):
        sources = set() if node.op_type in SIZES_ONLY else {name for name in node.input if name}
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                sources.update(value.name for value in graph.output)
        for name in node.output:
            reads.setdefault(name, set()).update(sources)
        if recurrent.is_recurrent(node):
            found_any = True
            waiting += [inputs(node, state.given) for state in recurrent.states(node)]
    if not found_any:
        return None
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting.extend(reads.get(name, ()))
    return found
