"""Where recurrent operators have their first states from."""

import onnx

from elman_export import onnxtensors

_FIRST_STATES = {
    "LSTM": (5, 6),
    "GRU": (5,),
    "RNN": (5,),
    "DynamicQuantizeLSTM": (5, 6),
}
_SIZES_ONLY = ("Shape", "Size")


def feeding_states(model: onnx.ModelProto) -> set[str] | None:
    """The names that the first states of recurrent operators are computed from, their sizes aside;
    None if the graph has no such operators."""
    reads: dict[str, set[str]] = {}
    waiting: list[str] = []
    recurrent = False
    for node in onnxtensors.nodes(model):
        given = set() if node.op_type in _SIZES_ONLY else {name for name in node.input if name}
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                given.update(value.name for value in graph.output)
        for name in node.output:
            reads.setdefault(name, set()).update(given)
        places = _FIRST_STATES.get(node.op_type, ())
        recurrent = recurrent or bool(places)
        waiting += [node.input[place] for place in places if place < len(node.input)]
    if not recurrent:
        return None
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting.extend(reads.get(name, ()))
    return found
