"""Speech in a WAV file, reported as it is heard: `python examples/speech/detect.py FILE.wav`.

Exports the silero-vad package's ONNX file, serves the model, streams the file to the server in
chunks like a microphone, and prints the stretches of speech. With --server, uses a running server
with the model instead.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

import elman

RATE = 16_000
"""Samples a second."""
FRAME = 512
"""New samples in an element."""
CHUNK = 1_600
"""Samples in a chunk of the microphone: a tenth of a second, not a multiple of a frame."""
CONTEXT = 64
"""Samples of the previous frame that the network reads again before each frame."""


class Problem(Exception):
    """Error that the user can correct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Stretch of speech, in seconds from the beginning."""

    start: float
    end: float


class Segmenter:
    """Turns probabilities, one for each frame, into segments.

    Speech begins at `threshold`. Speech ends where the probability stays under `release` for
    `silence` seconds. Segments shorter than `shortest` are left out.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        release: float = 0.35,
        silence: float = 0.1,
        shortest: float = 0.25,
    ) -> None:
        self._threshold = threshold
        self._release = release
        self._silence = silence
        self._shortest = shortest
        self._frames = 0
        self._start: float | None = None
        self._quiet: float | None = None

    def add(self, probability: float) -> Iterator[Segment]:
        """Segment that ends before this frame, or None."""
        now = self._frames * FRAME / RATE
        self._frames += 1
        if probability >= self._threshold:
            self._quiet = None
            if self._start is None:
                self._start = now
        elif probability < self._release and self._start is not None:
            if self._quiet is None:
                self._quiet = now
            if now + FRAME / RATE - self._quiet >= self._silence:
                yield from self._close(self._quiet)

    def finish(self) -> Iterator[Segment]:
        """Segment that ends with the sound, or None."""
        now = self._frames * FRAME / RATE
        yield from self._close(now if self._quiet is None else self._quiet)

    def _close(self, end: float) -> Iterator[Segment]:
        if self._start is not None and end - self._start >= self._shortest:
            yield Segment(start=self._start, end=end)
        self._start = self._quiet = None


@contextmanager
def opened(path: Path) -> Iterator[wave.Wave_read]:
    """Opens the file, if its format fits the model."""
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getframerate(), file.getsampwidth()) != (RATE, 2):
                raise Problem(
                    f"{path} has {file.getframerate()} samples a second of "
                    f"{8 * file.getsampwidth()} bits; the model takes {RATE} of 16"
                )
            yield file
    except (OSError, EOFError, wave.Error) as error:
        raise Problem(f"{path}: {error}") from None


def chunks(file: wave.Wave_read, *, live: bool) -> Iterator[np.ndarray]:
    """Yields samples, -1 to 1, in chunks like a microphone; with `live`, in real time."""
    started = time.monotonic()
    heard = 0
    while data := file.readframes(CHUNK):
        channels = np.frombuffer(data, "<i2").reshape(-1, file.getnchannels())
        heard += len(channels)
        if live:
            time.sleep(max(0.0, started + heard / RATE - time.monotonic()))
        yield channels.mean(axis=1).astype(np.float32) / 32768


def frames(sound: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields elements of `FRAME` samples, each as soon as complete. The last is filled with 0."""
    waiting = np.zeros(0, np.float32)
    for chunk in sound:
        waiting = np.concatenate([waiting, chunk])
        while len(waiting) >= FRAME:
            yield waiting[:FRAME]
            waiting = waiting[FRAME:]
    if len(waiting):
        yield np.pad(waiting, (0, FRAME - len(waiting)))


def adopt(path: Path) -> None:
    """Writes the package's network as a step model."""
    from elman_export import export_graph, features, probabilities

    try:
        found = [each for each in files("silero-vad") or [] if each.name == "silero_vad.onnx"]
    except PackageNotFoundError:
        raise Problem("no silero-vad: pip install --no-deps silero-vad==6.2.3") from None
    export_graph(
        str(found[0].locate()),
        path,
        constants={"sr": RATE},
        input=features(FRAME),
        outputs=[probabilities("output")],
        overlap=CONTEXT,
        description="Whether somebody speaks, by frames of 512 samples at 16 kHz",
    )


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """Address of a temporary server on any free port."""
    command = [sys.executable, "-m", "elman_server", str(model), "--log-format", "json"]
    # For one session there is no need to try large batches when the model is loaded.
    command += ["--port", "0", "--metrics-port", "0", "--max-batch-size", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            for text in server.stderr:
                line = json.loads(text)
                if line.get("event") == "serving":
                    yield f"localhost:{line['grpc_port']}"
                    return
            raise Problem("the server did not start")
        finally:
            server.kill()


def detect(target: str, name: str, sound: Iterable[np.ndarray]) -> Iterator[Segment]:
    """Yields segments, each as soon as it is over."""
    segmenter = Segmenter()
    with elman.connect(target) as client, client.stream(name) as stream:
        for prediction in stream.map(frames(sound)):
            yield from segmenter.add(prediction["output"])
    yield from segmenter.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path, help="a WAV file: 16 kHz, 16 bits")
    parser.add_argument("--server", metavar="HOST:PORT", help="of one that serves the model")
    parser.add_argument("--model", default="vad", help="its name there [%(default)s]")
    parser.add_argument("--live", action="store_true", help="no faster than it was spoken")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder, opened(asked.file) as file:
            sound = chunks(file, live=asked.live)
            if asked.server:
                show(detect(asked.server, asked.model, sound))
            else:
                model = Path(folder) / "vad.onnx"
                adopt(model)
                with serving(model) as target:
                    show(detect(target, "vad", sound))
    except (Problem, elman.ElmanError) as error:
        sys.exit(f"detect.py: {error}")


def show(segments: Iterable[Segment]) -> None:
    total = 0.0
    for segment in segments:
        print(f"{segment.start:7.2f} - {segment.end:7.2f} s", flush=True)
        total += segment.end - segment.start
    print(f"{total:.2f} s of speech")


if __name__ == "__main__":
    main()
