"""The speech example, run as a user runs it."""

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from examples.speech import detect
from examples.speech.detect import Segment, Segmenter
from tests.packages import packaged
from tests.serverprocess import ServerProcess

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FRAME = detect.FRAME / detect.RATE
"""Seconds."""


def segments(probabilities: list[float]) -> list[Segment]:
    segmenter = Segmenter()
    found = [segment for each in probabilities for segment in segmenter.add(each)]
    return [*found, *segmenter.finish()]


def written(path: Path, samples: np.ndarray, *, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "speech" / "detect.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd="/")


def lines(found: list[Segment]) -> list[str]:
    total = sum(each.end - each.start for each in found)
    return [
        *(f"{each.start:7.2f} - {each.end:7.2f} s" for each in found),
        f"{total:.2f} s of speech",
    ]


def test_speech_lasts_from_a_clear_yes_to_a_lasting_no() -> None:
    sure = [0.9] * 10
    assert segments([0.1] * 5 + sure + [0.1] * 9) == [Segment(start=5 * FRAME, end=15 * FRAME)]
    assert segments([*sure, 0.1, 0.4, 0.1, *sure]) == [Segment(start=0, end=23 * FRAME)]
    assert segments([0.4] * 20) == []


def test_a_click_is_no_speech() -> None:
    assert segments([0.1, 0.9, 0.9, *[0.1] * 9]) == []


def test_what_the_microphone_gives_becomes_frames() -> None:
    sound = np.arange(3000, dtype=np.float32)
    chunks = [sound[:700], sound[700:701], sound[701:2999], sound[2999:]]
    found = np.concatenate(list(detect.frames(chunks)))
    assert len(found) == 6 * detect.FRAME
    np.testing.assert_array_equal(found[:3000], sound)
    assert not found[3000:].any()


def test_a_file_that_the_model_does_not_take(tmp_path: Path) -> None:
    path = written(tmp_path / "slow.wav", np.zeros(100), rate=8000)
    answer = run(path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "8000 samples a second of 16 bits; the model takes 16000" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_silence_holds_no_speech(tmp_path: Path) -> None:
    packaged("silero-vad", "silero_vad.onnx")
    path = written(tmp_path / "silence.wav", np.zeros((20_000, 2)), channels=2)
    answer = run(path)
    assert answer.stderr == ""
    assert answer.stdout == "0.00 s of speech\n"


def test_a_recording_by_a_server_that_has_the_model(tmp_path: Path) -> None:
    packaged("silero-vad", "silero_vad.onnx")
    sound, known = SHARED / "silero_test.wav", SHARED / "silero_probs.npy"
    if not sound.exists():
        pytest.skip("the recording is not here")
    detect.adopt(tmp_path / "vad" / "1" / "model.onnx")
    expected = segments(np.load(known).tolist())
    assert len(expected) > 5
    with ServerProcess(str(tmp_path)) as server:
        answer = run(sound, "--server", server.target)
        assert answer.stdout.splitlines() == lines(expected)
        assert answer.stderr == ""
        answer = run(sound, "--server", server.target, "--model", "nope")
        assert answer.returncode == 1
        assert answer.stderr.count("\n") == 1
        assert "nope" in answer.stderr
