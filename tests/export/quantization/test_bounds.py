"""Which tensors are known to lie between -1 and 1, found in one walk however they are tied."""

import onnx_ir as ir
import pytest

from elman_export.quantization.bounds import bounded


def node(operator: str, *given: ir.Value) -> ir.Value:
    return ir.node(operator, given).outputs[0]


def squares(first: str, count: int) -> ir.Value:
    """The last of `count` tensors: each is the one before times itself, from `first` on."""
    found = node(first, ir.Value(name="x"))
    for _ in range(count):
        found = node("Mul", found, found)
    return found


@pytest.mark.parametrize(("first", "found"), [("Tanh", True), ("Exp", False)])
def test_products_that_read_one_tensor_twice_are_looked_at_once(first: str, found: bool) -> None:
    assert bounded(squares(first, 3000), set[ir.Value]().__contains__) is found


def test_a_tensor_is_bounded_where_all_that_it_comes_from_is() -> None:
    x, h, half = (ir.Value(name=name) for name in ("x", "h", "half"))
    moved = node("Reshape", node("Where", x, h, half), x)
    joined = node("Concat", moved, node("Sigmoid", x), moved)
    assert bounded(joined, {h, half}.__contains__)
    assert not bounded(joined, {h}.__contains__)
