"""Makes products inside a graph's existing Scans int8."""

from collections.abc import Callable

import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic
from elman_export.quantization.bounds import ScanBounds, bounded
from elman_export.quantization.operator import Kept
from elman_export.quantization.products import check_size, constant_matrix
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder, describe


def quantize_turns(
    builder: Builder,
    arithmetic: Arithmetic,
    scan: ir.Node,
    body: ir.Graph,
    bounds: ScanBounds,
    tell: Callable[[str], None],
) -> int:
    """Makes the products of a Scan's body int8, in place; returns their number."""
    inside = builder.within(body)
    count = 0
    for node in [node for node in body if node.op_type == "MatMul"]:
        factor = node.inputs[0]
        assert factor is not None
        try:
            matrix = constant_matrix(node)
            small = bounded(factor, bounds.states.__contains__)
            check_size(matrix.shape, scaled=not small)
        except Kept as reason:
            tell(f"{describe(node)} in {describe(scan)} stays float32: {reason}")
        else:
            encode = arithmetic.encode if small else arithmetic.encode_rows
            product = arithmetic.multiply(inside, encode(inside, factor), matrix)
            inside.take_over(node.outputs[0], product)
            graphs.remove(node)
            count += 1
    body.sort()
    return count
