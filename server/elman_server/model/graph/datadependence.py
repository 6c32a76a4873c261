"""Data-dependent time: whether what a graph computes can take longer for some numbers than for
others of the same shape.

A step whose time depends on its rows and chunk alone takes as long as the load-time probe found. A
Loop that turns as often as an element says, or an operator whose output is as large as an element
says, takes any time at all: then the probe knows nothing of the next step.

The graph is followed from what it is fed: a value is *fed* if it depends on numbers that came from
outside, and not on their shapes alone.
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
"""The inputs whose numbers say how large an output is, or how it is laid out."""
_REDUCTIONS = "Reduce"
"""What reduces takes its axes as its second input."""
_ALWAYS = {"Compress", "Mod", "NonMaxSuppression", "NonZero", "Unique"}
"""As large as the numbers make the output; or, for Mod, as long as the quotient is."""
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
"""Operators of ONNX Runtime's own whose time is known to depend on shapes alone. Others of its
domain search and sample."""
_MICROSOFT = "com.microsoft"
_MOST_FOLLOWED = 200_000
"""Nodes, each time that one is met: bodies are followed again and again, and a stranger's file may
nest them."""


def data_dependent(model: ModelGraph, fed: Collection[str]) -> str:
    """The first operator whose time depends on the numbers in the inputs `fed`, for people to read;
    empty if there is none."""
    follower = _Follower(model.functions)
    follower.follow(model.graph, {name: True for name in fed})
    return follower.found


class _Follower:
    def __init__(self, functions: Mapping[tuple[str, str], Graph]) -> None:
        self._functions = functions
        self._inside: list[tuple[str, str]] = []
        """Functions that are being followed: one that calls itself has no end."""
        self._followed = 0
        self.found = ""

    def follow(self, graph: Graph, known: Mapping[str, bool]) -> list[bool]:
        """Whether each output of a graph is fed; `known` tells it of values from outside, and what
        is not in there is a constant."""
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
        """An If. The probe may have seen the shorter branch alone."""
        if fed[:1] == [True]:
            self._find(node)
        both = [self.follow(graph, values) for graph in node.graphs.values()]
        return [fed[0] or any(each) for each in zip(*both, strict=False)] or [any(fed)]

    def _loop(self, node: Node, fed: list[bool], values: Mapping[str, bool]) -> list[bool]:
        """How often it turns is its first input or what its body says, which is its first
        output."""
        if any(fed[:2]):
            self._find(node)
        return self._repeat(node, fed, values, first=2)

    def _repeat(
        self, node: Node, fed: list[bool], values: Mapping[str, bool], *, first: int
    ) -> list[bool]:
        """The body of a Loop or a Scan, until what it hands on to itself is known. `first`: of the
        node's inputs, the first that the body hands on; as many of a Loop's body come before."""
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
