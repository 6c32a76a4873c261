"""Which tensors are known to lie between -1 and 1, found in one walk however they are tied."""

import pytest
from onnx import helper

from elman_export.quantization.bounds import Makers, bounded, makers


def squares(first: str, count: int) -> Makers:
    """By name, what makes `t{count}`: each is the one before times itself, from `first` on `x`."""
    nodes = [helper.make_node(first, ["x"], ["t0"])]
    nodes += [helper.make_node("Mul", [f"t{n}"] * 2, [f"t{n + 1}"]) for n in range(count)]
    return makers(helper.make_graph(nodes, "squares", [], []))


@pytest.mark.parametrize(("first", "found"), [("Tanh", True), ("Exp", False)])
def test_products_that_read_one_tensor_twice_are_looked_at_once(first: str, found: bool) -> None:
    assert bounded("t3000", squares(first, 3000), set[str]().__contains__) is found


def test_a_tensor_is_bounded_where_all_that_it_comes_from_is() -> None:
    nodes = [
        helper.make_node("Where", ["x", "h", "half"], ["chosen"]),
        helper.make_node("Reshape", ["chosen", "x"], ["moved"]),
        helper.make_node("Concat", ["moved", "gate", "moved"], ["all"]),
        helper.make_node("Sigmoid", ["x"], ["gate"]),
    ]
    made_by = makers(helper.make_graph(nodes, "tied", [], []))
    assert bounded("all", made_by, {"h", "half"}.__contains__)
    assert not bounded("all", made_by, {"h"}.__contains__)
