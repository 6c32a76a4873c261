"""Makes a graph's products with constant matrices (MatMul, Gemm) int8 where the change pays."""

import numpy as np
import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic, Encoded
from elman_export.quantization.codes import Codebook
from elman_export.quantization.operator import Kept
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder

KINDS = ("MatMul", "Gemm")

_SMALLEST = 4096
"""The least number of weights in a matrix."""
_SMALLEST_SCALED = 16384
"""The least number of weights if the other factor must be scaled: seven operators for one."""
_SHORTEST_SCALED = 32
"""The least length of scaled rows: for shorter rows, the scaling takes as long as int8 saves."""


class Products:
    """Makes products int8, in separate calls."""

    def __init__(self, builder: Builder, arithmetic: Arithmetic, codebook: Codebook) -> None:
        self._builder = builder
        self._arithmetic = arithmetic
        self._codebook = codebook

    def quantize(self, node: ir.Node) -> None:
        """Makes the output of a MatMul or Gemm with int8 nodes. The old node has no more readers.

        Raises `Kept` if the product stays float32.
        """
        given = node.attributes
        matrix = constant_matrix(node)
        if given.get_int("transA", 0):
            raise Kept("its first factor is transposed")
        if given.get_int("transB", 0):
            matrix = matrix.T
        factor = node.inputs[0]
        assert factor is not None
        codes = self._codebook.find(factor)
        check_size(matrix.shape, scaled=codes is None)
        if (alpha := given.get_float("alpha", 1.0)) != 1:
            matrix = matrix * np.float32(alpha)
        if codes is None:
            encoded = self._codebook.scaled(factor)
        else:
            encoded = Encoded(codes.value)
            if codes.gain is not None:
                matrix = matrix * codes.gain[:, None]
        product = self._arithmetic.multiply(self._builder, encoded, matrix)
        if (addend := graphs.input_at(node, 2)) is not None:
            beta = np.float32(given.get_float("beta", 1.0))
            if beta != 1:
                addend = self._builder.node("Mul", [addend, self._arithmetic.constant(beta)])
            product = self._builder.node("Add", [product, addend])
        self._builder.take_over(node.outputs[0], product)


def constant_matrix(node: ir.Node) -> np.ndarray:
    """The second factor of a product. Raises `Kept` for a matrix without an int8 form."""
    matrix = graphs.constant(node.inputs[1])
    if matrix is None:
        raise Kept("its second factor is not constant")
    if matrix.ndim != 2:
        raise Kept(f"its matrix has {matrix.ndim} axes")
    if matrix.dtype != np.float32:
        raise Kept(f"its matrix is {matrix.dtype}")
    if not np.isfinite(matrix).all():
        raise Kept("its matrix is not finite")
    return matrix


def check_size(shape: tuple[int, ...], *, scaled: bool) -> None:
    """Raises `Kept` if a matrix is too small; `scaled`: the other factor must be scaled first."""
    rows, columns = shape
    if scaled and rows < _SHORTEST_SCALED:
        raise Kept(f"rows of {rows} are too short to gain by it")
    if rows * columns < (_SMALLEST_SCALED if scaled else _SMALLEST):
        raise Kept(f"{rows} x {columns} weights are too few to gain by it")
