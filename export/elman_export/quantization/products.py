"""Makes a graph's products with constant matrices (MatMul, Gemm) int8 where the change pays."""

from collections.abc import Mapping

import numpy as np
import onnx

from elman_export.quantization.arithmetic import Arithmetic, Encoded
from elman_export.quantization.codes import Codebook
from elman_export.quantization.operator import Kept
from elman_export.surgery.editor import Editor, attributes, inputs

KINDS = ("MatMul", "Gemm")

_SMALLEST = 4096
"""The least number of weights in a matrix."""
_SMALLEST_SCALED = 16384
"""The least number of weights if the other factor must be scaled: seven operators for one."""
_SHORTEST_SCALED = 32
"""The least length of scaled rows: for shorter rows, the scaling takes as long as int8 saves."""


class Products:
    """Makes products int8, in separate calls."""

    def __init__(
        self,
        editor: Editor,
        arithmetic: Arithmetic,
        codebook: Codebook,
        constants: Mapping[str, np.ndarray],
    ) -> None:
        self._editor = editor
        self._arithmetic = arithmetic
        self._codebook = codebook
        self._constants = constants

    def quantize(self, node: onnx.NodeProto) -> None:
        """Makes the output of a MatMul or Gemm with int8 nodes, and renames the old node's output.

        Raises `Kept` if the product stays float32.
        """
        given = attributes(node)
        matrix = constant_matrix(node, self._constants)
        if given.get("transA", 0):
            raise Kept("its first factor is transposed")
        if given.get("transB", 0):
            matrix = matrix.T
        factor = node.input[0]
        codes = self._codebook.find(factor)
        check_size(matrix.shape, scaled=codes is None)
        if given.get("alpha", 1.0) != 1:
            matrix = matrix * np.float32(given["alpha"])
        if codes is None:
            encoded = self._codebook.scaled(factor)
        else:
            encoded = Encoded(codes.name)
            if codes.gain is not None:
                matrix = matrix * codes.gain[:, None]
        output = node.output[0]
        node.output[0] = self._editor.fresh(f"{output}/float")
        addend = inputs(node, 2)
        product = self._arithmetic.multiply(
            self._editor, encoded, matrix, output="" if addend else output
        )
        if addend:
            beta = np.float32(given.get("beta", 1.0))
            if beta != 1:
                addend = self._editor.node("Mul", [addend, self._arithmetic.constant(beta)])
            self._editor.node("Add", [product, addend], output)


def constant_matrix(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """The second factor of a product. Raises `Kept` for a matrix without an int8 form."""
    matrix = constants.get(node.input[1])
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
