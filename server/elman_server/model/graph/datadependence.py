"""Data-dependent time: whether a graph's run time depends on numbers, and not only on shapes.

If a step's time depends only on rows and chunk, the load-time probe predicts the time. An element
can also set the number of iterations of a Loop, or the size of an operator's output. Then a step
may take any time, and the probe predicts nothing.

The analysis follows values from the graph's inputs. A value is *fed* if its numbers depend on
numbers from outside. Dependence only on the shapes of inputs does not count.
"""

from collections.abc import Collection, Mapping

from elman_server.model.graph.onnxgraph import Graph, ModelGraph, Node

_SIZED_BY = {
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "BlackmanWindow": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "AffineGrid": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Indices of inputs, by operator, with numbers that set the size or the layout of an output."""
_REDUCTIONS = "Reduce"
"""Name prefix of reduction operators. Their second input is the axes."""
_ALWAYS = {"Compress", "Mod", "NonMaxSuppression", "NonZero", "Unique"}
"""Operators with an output size, or for Mod a run time, that depends on the numbers of any input.
The time of Mod grows with the length of the quotient."""
_SHAPES = {"Shape", "Size"}
_EXTENSIONS = {
    "BiasGelu",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "FastGelu",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gelu",
    "LayerNormalization",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QLinearAdd",
    "QLinearMul",
    "QLinearSigmoid",
    "QuickGelu",
    "QuantizeLinear",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
}
"""ONNX Runtime's own operators with a run time known to depend only on shapes. Other operators of
the domain search and sample."""
_MICROSOFT = "com.microsoft"
_MOST_FOLLOWED = 200_000
"""Visits of nodes. A node in a body is visited many times, and an untrusted file may nest
bodies."""


def data_dependent(model: ModelGraph, fed: Collection[str]) -> str:
    """Returns the first operator, as readable text, with a run time that depends on the numbers in
    the inputs `fed`; empty if there is no such operator."""
    follower = _Follower(model.functions)
    follower.follow(model.graph, {name: True for name in fed})
    return follower.found


class _Follower:
    """Follows fed values through a graph and records the first data-dependent operator."""

    def __init__(self, functions: Mapping[tuple[str, str], Graph]) -> None:
        self._functions = functions
        self._inside: list[tuple[str, str]] = []
        """Stack of the functions being followed, to detect recursion."""
        self._followed = 0
        self.found = ""

    def follow(self, graph: Graph, known: Mapping[str, bool]) -> list[bool]:
        """Returns whether each output of a graph is fed.

        `known` holds whether each value from outside the graph is fed; missing values are
        constants.
        """
        values = dict(known)
        for node in graph.nodes:
            self._followed += 1
            if self._followed > _MOST_FOLLOWED:
                self._find(node)
                break
            given = self._node(node, values)
            for index, name in enumerate(node.outputs):
                values[name] = given[index] if index < len(given) else given[-1]
        return [values.get(name, False) for name in graph.outputs]

    def _node(self, node: Node, values: Mapping[str, bool]) -> list[bool]:
        fed = [bool(name) and values.get(name, False) for name in node.inputs]
        key = node.domain, node.operator
        if key in self._functions:
            return self._function(node, key, fed)
        if node.domain == "" and node.operator in _SHAPES:
            return [False]
        match node.operator if node.domain == "" else "":
            case "If":
                return self._branches(node, fed, values)
            case "Loop":
                return self._loop(node, fed, values)
            case "Scan":
                return self._repeat(node, fed, values, first=0)
        if any(fed) and self._sized(node, fed):
            self._find(node)
        return [any(fed)]

    def _sized(self, node: Node, fed: list[bool]) -> bool:
        if node.domain == _MICROSOFT:
            return node.operator not in _EXTENSIONS
        if node.domain or node.graphs:
            return True
        if node.operator in _ALWAYS or node.operator.startswith(("Sequence", "Optional", "String")):
            return True
        sizes = _SIZED_BY.get(node.operator, ())
        if node.operator.startswith(_REDUCTIONS):
            sizes = (1,)
        return any(fed[index] for index in sizes if index < len(fed))

    def _branches(self, node: Node, fed: list[bool], values: Mapping[str, bool]) -> list[bool]:
        """Follows an If. The probe may have run only the shorter branch."""
        if fed[:1] == [True]:
            self._find(node)
        both = [self.follow(graph, values) for graph in node.graphs.values()]
        return [fed[0] or any(each) for each in zip(*both, strict=False)] or [any(fed)]

    def _loop(self, node: Node, fed: list[bool], values: Mapping[str, bool]) -> list[bool]:
        """Follows a Loop. The number of iterations depends on the Loop's first two inputs, and on
        the condition, the first output of the body."""
        if any(fed[:2]):
            self._find(node)
        return self._repeat(node, fed, values, first=2)

    def _repeat(
        self, node: Node, fed: list[bool], values: Mapping[str, bool], *, first: int
    ) -> list[bool]:
        """Follows the body of a Loop or a Scan until the carried values no longer change.

        `first` is the index of the node's first carried input. A Loop's body has two more inputs
        before the carried inputs.
        """
        body = node.graphs.get("body", Graph())
        is_loop = node.operator == "Loop"
        carried = fed[first:]
        while True:
            own = [False, False, *carried] if is_loop else carried
            inside = {**values, **dict(zip(body.inputs, own, strict=False))}
            given = self.follow(body, inside)
            handed_on = given[1:] if is_loop else given
            after = [
                was or (index < len(handed_on) and handed_on[index])
                for index, was in enumerate(carried)
            ]
            if after == carried:
                break
            carried = after
        if is_loop and given[:1] == [True]:
            self._find(node)
        return handed_on or [any(fed)]

    def _function(self, node: Node, key: tuple[str, str], fed: list[bool]) -> list[bool]:
        if key in self._inside:
            self._find(node)
            return [True]
        self._inside.append(key)
        graph = self._functions[key]
        given = self.follow(graph, dict(zip(graph.inputs, fed, strict=False)))
        self._inside.pop()
        return given or [any(fed)]

    def _find(self, node: Node) -> None:
        self.found = self.found or str(node)
