"""Torch modules that are given something once: at every step, or to make first states of."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import elman_export
from elman_export.errors import ExportError
from elman_export.proof.stepmodel import StepModel
from elman_server.model import modelfile

IDS, IMAGE, HIDDEN = 11, 4, 6


class Captioner(nn.Module):
    """Ids and an image to logits: the image makes the first state, or is seen at every step."""

    def __init__(self, *, first: bool, every: bool, layers: int = 2, lstm: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(IDS, 5)
        self.encoder = nn.Sequential(nn.Linear(IMAGE, 8), nn.ReLU(), nn.Linear(8, 2 * HIDDEN))
        kind = nn.LSTM if lstm else nn.GRU
        self.body = kind(5 + IMAGE * every, HIDDEN, layers, batch_first=True)
        self.head = nn.Linear(HIDDEN, IDS)
        self.first, self.every, self.lstm = first, every, lstm

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        elements = self.embedding(x)
        if self.every:
            row = image.unsqueeze(1).expand(-1, x.shape[1], -1)
            elements = torch.cat([elements, row], dim=-1)
        hx = None
        if self.first:
            h, c = self.encoder(image).chunk(2, dim=-1)
            layers = self.body.num_layers
            first = torch.tanh(h).expand(layers, -1, -1)
            hx = (first.contiguous(), c.expand(layers, -1, -1).contiguous())
        y, _ = self.body(elements, hx if self.lstm or hx is None else hx[0])
        result: Tensor = self.head(y)
        return result


def _export(module: nn.Module, path: Path) -> elman_export.Report:
    return elman_export.export(
        module,
        path,
        input=elman_export.tokens(IDS),
        outputs=[elman_export.logits("next")],
        contexts=[elman_export.context("image", IMAGE)],
    )


@pytest.mark.parametrize(
    ("first", "every", "lstm"), [(True, False, True), (False, True, True), (True, True, False)]
)
def test_sessions_of_different_contexts_equal_the_module(
    first: bool, every: bool, lstm: bool, tmp_path: Path
) -> None:
    module = Captioner(first=first, every=every, lstm=lstm).eval()
    report = _export(module, tmp_path / "m.onnx")
    assert report.proof.exact
    (context,) = report.spec.contexts
    assert context.input == ("image" if every else None)
    states = tuple(state.name for state in report.spec.states)
    assert report.spec.initialized == (states if first else ())
    file = modelfile.read(report.path)
    step = StepModel(report.path.read_bytes(), report.spec, file.initial)
    rng = np.random.default_rng(0)
    x = rng.integers(0, IDS, (3, 7))
    image = rng.normal(size=(3, IMAGE)).astype(np.float32)
    answer = step.run(x, [[1] * 7] * 3, {"image": image})
    with torch.no_grad():
        expected = module(torch.from_numpy(x), torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(answer.outputs["next"], expected, atol=1e-5)


def test_the_step_leaves_the_encoder_to_the_initial_state_network(tmp_path: Path) -> None:
    report = _export(Captioner(first=True, every=False), tmp_path / "m.onnx")
    step = onnx.load(report.path)
    assert "image" not in [value.name for value in step.graph.input]
    assert "Relu" not in [node.op_type for node in step.graph.node]
    initial = modelfile.read(report.path).initial
    assert initial is not None
    network = onnx.load_from_string(initial)
    assert [value.name for value in network.graph.input] == ["image"]
    assert "LSTM" not in [node.op_type for node in network.graph.node]


def test_a_head_on_the_last_step_may_read_a_context(tmp_path: Path) -> None:
    class Described(Captioner):
        def forward(self, x: Tensor, image: Tensor) -> Tensor:
            _, (h, _) = self.body(self.embedding(x))
            result: Tensor = self.head(h[-1]) * image[:, :1]
            return result

    report = _export(Described(first=False, every=False), tmp_path / "m.onnx")
    assert not report.spec.time_axis
    assert report.differences[0].maximum < 2e-6


def test_a_context_that_the_module_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing in the network reads context 'image'"):
        _export(Captioner(first=False, every=False), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_first_state_that_needs_the_sequence_too_is_refused(tmp_path: Path) -> None:
    class Peeks(Captioner):
        def forward(self, x: Tensor, image: Tensor) -> Tensor:
            h = torch.tanh(self.encoder(image).chunk(2, dim=-1)[0] + x[:, :1])
            y, _ = self.body(self.embedding(x), h.expand(2, -1, -1).contiguous())
            result: Tensor = self.head(y)
            return result

    with pytest.raises(ExportError, match="first state needs 'input', which is no context"):
        _export(Peeks(first=True, every=False, lstm=False), tmp_path / "m.onnx")
