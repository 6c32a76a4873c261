"""A step model is the module that it was made from, whatever that was built of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import elman_export
from elman_server.model import modelfile
from elman_server.model.spec import InputKind, OutputKind

Network = Callable[..., nn.Module]
Steps = Callable[[Path, np.ndarray], Mapping[str, np.ndarray]]

NAMES = "abcdefghijk"
IDS = np.random.default_rng(3).integers(0, len(NAMES), (3, 9))

CELLS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}


def whole(module: nn.Module, x: np.ndarray, batch_first: bool = True) -> np.ndarray:
    module.eval()
    with torch.no_grad():
        if batch_first:
            result: np.ndarray = module(torch.from_numpy(x)).numpy()
        else:
            result = module(torch.from_numpy(x).transpose(0, 1)).transpose(0, 1).numpy()
    return result


def export(module: nn.Module, path: Path) -> elman_export.Report:
    return elman_export.export(
        module, path, input=elman_export.text(NAMES), outputs=[elman_export.values("y")]
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("layers", "batch_first", "bias"),
    [(1, True, True), (3, True, False), (2, False, True)],
)
def test_every_cell_steps_as_it_runs_whole(
    cell: str,
    layers: int,
    batch_first: bool,
    bias: bool,
    network: Network,
    step_by_step: Steps,
    tmp_path: Path,
) -> None:
    body = CELLS[cell](
        6, 7, layers, batch_first=batch_first, bias=bias, dropout=0.1 if layers > 1 else 0.0
    )
    module = network(body)
    report = export(module, tmp_path / "m.onnx")
    stepped = step_by_step(report.path, IDS)["y"]
    np.testing.assert_allclose(stepped, whole(module, IDS, batch_first), rtol=0, atol=2e-6)
    assert report.differences[0].maximum < 2e-6


def test_a_relu_rnn_steps_as_it_runs_whole(
    network: Network, step_by_step: Steps, tmp_path: Path
) -> None:
    module = network(nn.RNN(6, 7, 2, nonlinearity="relu", batch_first=True))
    report = export(module, tmp_path / "m.onnx")
    np.testing.assert_allclose(
        step_by_step(report.path, IDS)["y"], whole(module, IDS), rtol=0, atol=2e-6
    )


def test_a_parametrised_layer_steps_as_it_runs_whole(
    network: Network, step_by_step: Steps, tmp_path: Path
) -> None:
    module = network(weight_norm(nn.GRU(6, 7, batch_first=True), "weight_hh_l0"))
    report = export(module, tmp_path / "m.onnx")
    np.testing.assert_allclose(
        step_by_step(report.path, IDS)["y"], whole(module, IDS), rtol=0, atol=2e-6
    )


HEADS: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "one number": lambda: nn.Sequential(nn.Linear(7, 1), nn.Flatten(2)),
    "a scalar": lambda: nn.Sequential(nn.Linear(7, 1), nn.Sigmoid(), Squeeze()),
    "normalised": lambda: nn.Sequential(nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 4)),
    "deep": lambda: nn.Sequential(
        nn.Linear(7, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3), nn.LogSoftmax(-1)
    ),
    "a matrix": lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Unflatten(2, (2, 3))),
}


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_steps_as_it_runs_whole(
    head: str, network: Network, step_by_step: Steps, tmp_path: Path
) -> None:
    module = network(nn.GRU(6, 7, batch_first=True), HEADS[head]())
    report = export(module, tmp_path / "m.onnx")
    expected = whole(module, IDS)
    assert report.spec.outputs[0].shape == expected.shape[2:]
    np.testing.assert_allclose(step_by_step(report.path, IDS)["y"], expected, rtol=0, atol=2e-6)


class Mixed(nn.Module):
    """Features in; an LSTM and a GRU with a residual and a concatenation; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 4, batch_first=True)
        self.second = nn.GRU(8, 6)
        self.norm = nn.LayerNorm(6)
        self.energy = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden, _ = self.first(x)
        both = torch.cat([hidden + x, x], dim=-1)
        hidden, _ = self.second(both.transpose(0, 1))
        hidden = self.norm(hidden.transpose(0, 1))
        return {"hidden": hidden, "energy": self.energy(hidden).squeeze(-1)}


def test_mixed_cells_layouts_and_several_outputs_go_together(
    step_by_step: Steps, tmp_path: Path
) -> None:
    module = Mixed()
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.features(4),
        outputs=[elman_export.values("energy"), elman_export.values("hidden")],
    )
    assert [state.name for state in report.spec.states] == ["first.0.h", "first.0.c", "second.0.h"]
    assert [output.shape for output in report.spec.outputs] == [(), (6,)]
    x = np.random.default_rng(1).standard_normal((2, 6, 4), np.float32)
    stepped = step_by_step(report.path, x)
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    for name in ("hidden", "energy"):
        np.testing.assert_allclose(stepped[name], expected[name].numpy(), rtol=0, atol=1e-5)


class Learned(nn.Module):
    """Starts from learned states, and returns the last ones beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True)
        self.h = nn.Parameter(torch.randn(2, 1, 4))
        self.c = nn.Parameter(torch.randn(2, 1, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        start = (self.h.expand(-1, x.shape[0], -1), self.c.expand(-1, x.shape[0], -1))
        hidden, states = self.lstm(x, tuple(s.contiguous() for s in start))
        return hidden, states


def test_learned_initial_states_become_the_specs_and_returned_states_are_left_out(
    step_by_step: Steps, tmp_path: Path
) -> None:
    module = Learned()
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
    )
    second = next(state for state in report.spec.states if state.name == "lstm.1.c")
    np.testing.assert_array_equal(second.initial_value()[0], module.c[1, 0].detach().numpy())
    x = np.random.default_rng(1).standard_normal((2, 5, 3), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(step_by_step(report.path, x)["y"], expected, rtol=0, atol=2e-6)


def test_the_file_says_what_was_said_of_it(network: Network, tmp_path: Path) -> None:
    module = network(nn.LSTM(6, 7, 2, batch_first=True), nn.Linear(7, len(NAMES)))
    report = elman_export.export(
        module,
        tmp_path / "deep" / "m.onnx",
        input=elman_export.text(NAMES, unknown="c", name="letter"),
        outputs=[elman_export.logits("next", labels=NAMES)],
        description="Letters.",
    )
    file = modelfile.read(report.path)
    assert file.spec == report.spec
    assert file.fingerprint == report.fingerprint
    spec = file.spec
    assert spec.description == "Letters."
    assert (spec.input.name, spec.input.kind, spec.input.size) == ("letter", InputKind.TEXT, 11)
    assert spec.input.vocabulary == tuple(NAMES)
    assert spec.input.unknown == 2
    (output,) = spec.outputs
    assert (output.kind, output.dtype, output.shape) == (OutputKind.LOGITS, "float32", (11,))
    assert output.labels == tuple(NAMES)
    assert [state.name for state in spec.states] == [
        "body.0.h",
        "body.0.c",
        "body.1.h",
        "body.1.c",
    ]
    assert {(state.shape, state.batch_axis, state.initial) for state in spec.states} == {
        ((1, 7), 1, None)
    }
    assert spec.time_axis
    assert spec.lengths == "lengths"
    assert report.size == report.path.stat().st_size


def test_the_graph_has_named_dynamic_axes_and_tells_nothing_of_where_it_was_made(
    network: Network, tmp_path: Path
) -> None:
    report = export(network(nn.GRU(6, 7, batch_first=True)), tmp_path / "m.onnx")
    graph = onnx.load(report.path).graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {
        "input": ["batch", "time"],
        "lengths": ["batch"],
        "body.0.h": [1, "batch", 7],
        "y": ["batch", "time", 5],
        "body.0.h.next": [1, "batch", 7],
    }
    assert str(Path(__file__).parent).encode() not in report.path.read_bytes()
    assert b".py" not in report.path.read_bytes()


def test_names_of_outputs_may_be_those_that_the_graph_uses_inside(
    network: Network, tmp_path: Path
) -> None:
    report = elman_export.export(
        network(nn.GRU(6, 7, batch_first=True)),
        tmp_path / "m.onnx",
        input=elman_export.tokens(11, name="linear"),
        outputs=[elman_export.values("embedding")],
    )
    assert report.spec.outputs[0].name == "embedding"


def test_the_same_module_gives_the_same_file(network: Network, tmp_path: Path) -> None:
    module = network(nn.GRU(6, 7, batch_first=True))
    one = export(module, tmp_path / "1.onnx")
    two = export(module, tmp_path / "2.onnx")
    assert one.path.read_bytes() == two.path.read_bytes()


def test_a_module_is_left_as_it_was(network: Network, tmp_path: Path) -> None:
    module = network(nn.GRU(6, 7, 2, batch_first=True, dropout=0.5))
    module.train()
    module.get_submodule("head").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, tmp_path / "m.onnx")
    assert module.training
    assert not module.get_submodule("head").training
    assert isinstance(module.get_submodule("body"), nn.GRU)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
