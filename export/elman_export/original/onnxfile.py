"""Reading of an ONNX file that may be damaged, cut off or malicious.

`load` reads only the file itself and, for external constants, files in the same folder. The
returned model holds all constants, has sorted nodes, and was accepted by ONNX Runtime. Running the
model may still take any time and memory: run it in `elman_export.sandbox`.
"""

import os
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto

from elman_export.errors import ExportError
from elman_export.surgery import onnxnodes, onnxtensors
from elman_export.surgery.onnxnodes import describe
from elman_server.model.graph.externaldata import MAX_BYTES
from elman_server.model.ordinaryfile import open_ordinary
from elman_server.runner.ort import onnxruntime

_MAX_VALUES = 2**31
"""Maximum number of values in an input or output, by the declared shape."""

_DEEPEST = 100
"""Maximum depth of nested messages, as in protobuf."""

_MAX_MESSAGE = 400


def load(path: str | os.PathLike[str]) -> ModelProto:
    """Returns the model in a file, with all constants.

    Raises `ExportError` with a single line: the file and the problem.
    """
    path = Path(path)
    try:
        data = _read(path)
        model = _parse(data)
        onnxtensors.inline(model, path, len(data))
        onnxtensors.check(model)
        _check_ports(model.graph)
        for graph in onnxnodes.graphs(model):
            _sort(graph)
        _check_runs(model)
    except ExportError as error:
        # Names in a file may hold any characters, including line ends.
        line = " ".join(str(error).split())
        if len(line) > _MAX_MESSAGE:
            line = f"{line[:_MAX_MESSAGE]}..."
        raise ExportError(f"{path}: {line}") from None
    return model


def _read(path: Path) -> bytes:
    try:
        file, size = open_ordinary(path)
        with file:
            if size == 0:
                raise ExportError("the file is empty")
            if size > MAX_BYTES:
                raise ExportError(f"has {size:,} bytes; an ONNX file has at most {MAX_BYTES:,}")
            return file.read(size)
    except OSError as error:
        raise ExportError(str(error.strerror)) from None


def _parse(data: bytes) -> ModelProto:
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        depth = _depth(data)
        if depth > _DEEPEST:
            raise ExportError(
                f"nodes inside of nodes make messages {depth} deep; ONNX files are read up to "
                f"{_DEEPEST}"
            ) from None
        raise ExportError("not an ONNX file, or a damaged one") from None
    if not model.ir_version or not model.graph.node:
        raise ExportError("not an ONNX file, or one without any operator")
    # Unused here, and not validated by any checker.
    del model.training_info[:]
    return model


def _depth(data: bytes) -> int:
    """Nesting depth of graphs, nodes and attributes in a serialized model."""
    inside = {"model": {7: "graph"}, "graph": {1: "node"}, "node": {5: "attribute"}}
    inside["attribute"] = {6: "graph", 11: "graph"}
    deepest = 0
    waiting = [("model", 0, len(data), 0)]
    while waiting:
        kind, start, stop, depth = waiting.pop()
        deepest = max(deepest, depth)
        for number, first, last in _fields(data, start, stop):
            if number in inside[kind]:
                waiting.append((inside[kind][number], first, last, depth + 1))
    return deepest


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of each length-delimited field, up to the first invalid byte."""
    while start < stop:
        tag, start = _varint(data, start, stop)
        match tag & 7:
            case 0:
                _, start = _varint(data, start, stop)
            case 1:
                start += 8
            case 2:
                length, start = _varint(data, start, stop)
                if start + length > stop:
                    return
                yield tag >> 3, start, start + length
                start += length
            case 5:
                start += 4
            case _:
                return


def _varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while start < stop and shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start
    return 0, stop


def _check_ports(graph: GraphProto) -> None:
    """Raises `ExportError` for inputs and outputs with negative or impossibly large shapes."""
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if min(dims, default=0) < 0 or prod(filter(None, dims)) > _MAX_VALUES:
                raise ExportError(
                    f"{side} {value.name!r} is declared as {dims}; at most {_MAX_VALUES:,} values "
                    "fit, and no size is negative"
                )


def _sort(graph: GraphProto) -> None:
    """Puts nodes behind the nodes that they read from.

    Raises `ExportError` for names made twice and for a cyclic graph.
    """
    makers: dict[str, int] = {}
    taken = {each.name for each in graph.initializer} | {each.name for each in graph.input}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in taken:
                raise ExportError(f"{describe(node)} makes {name!r}, which is made elsewhere too")
            makers[name] = index
    sources = {
        index: {makers[name] for name in _reads(node) if name in makers}
        for index, node in enumerate(graph.node)
    }
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        stuck = graph.node[min(error.args[1])]
        raise ExportError(f"the graph goes in circles at {describe(stuck)}") from None
    if any(source > reader for reader, found in sources.items() for source in found):
        nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _reads(node: NodeProto) -> set[str]:
    """Names read by a node, including reads in its subgraphs. A few extra names do no harm."""
    found = set(filter(None, node.input))
    waiting = [node]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                own = {name for each in graph.node for name in each.output}
                read = {name for each in graph.node for name in each.input if name}
                read.update(each.name for each in graph.output)
                found.update(read - own - {each.name for each in graph.initializer})
                waiting.extend(graph.node)
    return found


def _check_runs(model: ModelProto) -> None:
    """Raises `ExportError` for a model rejected by the ONNX checker or by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Optimization would run parts of the graph.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnx.checker.check_model(_declared(model))
        data = model.SerializeToString()
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both raise many classes; protobuf raises ValueError
        raise ExportError(_explain(model, " ".join(str(error).split()))) from None


def _declared(model: ModelProto) -> bytes:
    """Returns the model with a shape for each output. The format requires a shape, ONNX Runtime
    does not, and many exporters omit shapes."""
    copy = ModelProto.FromString(model.SerializeToString())
    for graph in onnxnodes.graphs(copy):
        for value in graph.output:
            if value.type.WhichOneof("value") in (None, "tensor_type"):
                value.type.tensor_type.shape.SetInParent()
    return copy.SerializeToString()


def _explain(model: ModelProto, message: str) -> str:
    """Shortens known messages of the checker or the runtime. Other messages stay unchanged."""
    opset = re.search(
        r"Opset (\d+) is under development.* domain (\S+) is till opset (\d+)", message
    )
    if opset:
        return f"opset {opset[1]} of {opset[2]} is too new: ONNX Runtime takes up to {opset[3]}"
    imported = {each.domain for each in model.opset_import}
    functions = {(each.domain, each.name) for each in model.functions}
    unknown = (
        r"No Op registered for (\w+)",
        r"([\w.]+)\(-?\d+\) is not a registered function/op",
        r"No opset import for domain '?([\w.]*)'?",
    )
    for pattern in unknown:
        said = re.search(pattern, message)
        if said is None:
            continue
        for node in onnxnodes.nodes(model):
            if (node.domain, node.op_type) in functions:
                continue
            if said[1].split(":")[-1] in (node.op_type, node.domain) or (
                node.domain not in imported and node.domain != "ai.onnx"
            ):
                return (
                    f"node {node.name or node.output[0]!r}: operator {node.op_type!r} of domain "
                    f"{node.domain or 'ai.onnx'!r} is not known to ONNX Runtime"
                )
    return message
