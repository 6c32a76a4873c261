"""What torch modules become, int8: layers that ONNX has no operator for among them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import elman_export
from elman_export.proof.stepmodel import StepModel
from elman_export.quantization import quantize

TIME = 10


class Layers(nn.Module):
    """Layers in a row, and a head."""

    def __init__(self, *layers: nn.RNNBase) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(layers[-1].proj_size or layers[-1].hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        result: Tensor = self.head(x)
        return result


MODULES: dict[str, Callable[[], nn.Module]] = {
    "rnn of relus": lambda: Layers(nn.RNN(4, 130, nonlinearity="relu", batch_first=True)),
    "projected lstm": lambda: Layers(nn.LSTM(4, 80, 2, proj_size=60, batch_first=True)),
    "mixed": lambda: Layers(
        nn.GRU(4, 80, batch_first=True),
        nn.RNN(80, 90, batch_first=True),
        nn.LSTM(90, 70, batch_first=True),
    ),
}


@pytest.fixture(scope="module", params=MODULES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, StepModel, StepModel, onnx.ModelProto]]:
    """A name, the exported model and its int8 form."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    spec = elman_export.export(
        MODULES[request.param](),
        path,
        input=elman_export.features(4),
        outputs=[elman_export.values("y")],
    ).spec
    small, small_spec = quantize(onnx.load(path), spec)
    yield (
        request.param,
        StepModel(Path(path).read_bytes(), spec),
        StepModel(small.SerializeToString(), small_spec),
        small,
    )


def products(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        if "MatMul" in node.op_type:
            yield node.op_type
        if node.op_type == "Scan":
            yield from products(helper.get_node_attr_value(node, "body"))


def test_all_large_products_are_int8(
    pair: tuple[str, StepModel, StepModel, onnx.ModelProto],
) -> None:
    name, _, _, small = pair
    found = list(products(small.graph))
    # The first layer reads 4 features, the head gives 3 numbers.
    expected = {"rnn of relus": 1, "projected lstm": 5, "mixed": 9}
    assert found.count("MatMulIntegerToFloat") == expected[name]


def test_it_says_nearly_the_same(
    pair: tuple[str, StepModel, StepModel, onnx.ModelProto],
) -> None:
    _, large, small, _ = pair
    x = np.random.default_rng(0).standard_normal((4, TIME, 4)).astype(np.float32)
    expected = large.run(x, [[TIME]] * 4).outputs["y"]
    found = small.run(x, [[TIME]] * 4).outputs["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert (found != expected).any()


def test_rows_and_chunks_are_exact(
    pair: tuple[str, StepModel, StepModel, onnx.ModelProto],
) -> None:
    _, _, small, _ = pair
    x = np.random.default_rng(0).standard_normal((66, TIME, 4)).astype(np.float32)
    x[1] *= 1e6
    whole = small.run(x, [[TIME]] * 66)
    ways = [small.run(x, [[1] * TIME] * 66), small.run(x, [[3, 7]] * 66)]
    if small.spec.lengths is not None:
        ways.append(small.run(x, [[3, 7], [7, 3], [1, 9]] * 22))
    alone = small.run_alone(x[:5], [[3, 7]] * 5)
    for name, value in {**whole.outputs, **whole.states}.items():
        for way in ways:
            assert {**way.outputs, **way.states}[name].tobytes() == value.tobytes()
        assert {**alone.outputs, **alone.states}[name].tobytes() == value[:5].tobytes()


def test_lengths_stay_where_no_operator_is_replaced(
    pair: tuple[str, StepModel, StepModel, onnx.ModelProto],
) -> None:
    name, large, small, _ = pair
    assert large.spec.lengths == "lengths"
    assert small.spec.lengths == (None if name == "mixed" else "lengths")
