"""Makes products inside a graph's existing Scans int8."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from elman_export.quantization.arithmetic import Arithmetic, Body
from elman_export.quantization.bounds import ScanBounds, bounded, makers
from elman_export.quantization.operator import Kept
from elman_export.quantization.products import check_size, constant_matrix
from elman_export.surgery.editor import Editor
from elman_export.surgery.onnxnodes import describe


def quantize_turns(
    editor: Editor,
    arithmetic: Arithmetic,
    scan: onnx.NodeProto,
    body: onnx.GraphProto,
    constants: Mapping[str, np.ndarray],
    bounds: ScanBounds,
    tell: Callable[[str], None],
) -> int:
    """Makes the products of a Scan's body int8, in place; returns their number."""
    made_by = makers(body)
    known = dict(constants) | {each.name: numpy_helper.to_array(each) for each in body.initializer}
    written = Body(editor)
    count = 0
    for node in body.node:
        if node.op_type != "MatMul":
            written.nodes.append(node)
            continue
        try:
            matrix = constant_matrix(node, known)
            small = bounded(node.input[0], made_by, bounds.states.__contains__)
            check_size(matrix.shape, scaled=not small)
        except Kept as reason:
            tell(f"{describe(node)} in {describe(scan)} stays float32: {reason}")
            written.nodes.append(node)
        else:
            encode = arithmetic.encode if small else arithmetic.encode_rows
            encoded = encode(written, node.input[0])
            arithmetic.multiply(written, encoded, matrix, output=node.output[0])
            count += 1
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written.nodes]
    del body.node[:]
    body.node.extend(nodes)
    return count
