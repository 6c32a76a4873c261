"""Size, speed and quality of int8 step models beside their float32 originals.

    python -m benchmarks.quantization
    python -m benchmarks.quantization --text tinyshakespeare.txt --train 480

Speeds are of models with random weights, in-process, with one thread: elements for each second of
the thread's own CPU time, so that other processes disturb less. Both models are measured in turn,
in many short rounds; rates are medians, and so is the ratio of a round's two. Whatever else the
machine does takes caches away, which int8 needs more; so the ratio of the fastest rounds stands
beside. Quality is of the bundled models; `--train` adds one of two layers of 512, trained for so
many seconds.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.models import VOCABULARY
from benchmarks.quantization_quality import Measure, Whole, measures, perplexity, train
from elman_export.quantization import quantize
from elman_server.model import modelfile
from elman_server.model.spec import ModelSpec
from elman_server.runner.ort import onnxruntime
from tests.export.quantization.graphs import Net
from tests.stepmodels import Shape, lstm

MODELS = Path(str(files("elman_server"))) / "models"
SHAPES = ((1, 1), (64, 1), (64, 8), (1, 32))
"""Rows and elements of each in a step."""
HIDDEN = 512
"""Of the model that `--train` trains."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and its int8 form, each with its spec."""

    name: str
    before: tuple[onnx.ModelProto, ModelSpec]
    after: tuple[onnx.ModelProto, ModelSpec]

    @staticmethod
    def of(name: str, model: onnx.ModelProto, spec: ModelSpec) -> "Pair":
        return Pair(name, (model, spec), quantize(model, spec))

    @staticmethod
    def read(name: str, path: Path) -> "Pair":
        return Pair.of(name, onnx.load(path), modelfile.read(path).spec)


class Load:
    """Steps of one shape, all from the same state."""

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec, rows: int, chunk: int) -> None:
        rng = np.random.default_rng(0)
        shape = (rows, chunk, *spec.input.shape)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._feed: dict[str, Any] = {
            spec.input.name: rng.integers(0, spec.input.size, shape)
            if spec.input.size
            else rng.standard_normal(shape).astype(np.float32)
        }
        for state in spec.states:
            self._feed[state.input] = np.stack(
                [state.initial_value()] * rows, axis=state.batch_axis
            )
        if spec.lengths is not None:
            self._feed[spec.lengths] = np.full(rows, chunk, np.int32)
        self._elements = rows * chunk

    def elements_per_second(self, seconds: float) -> float:
        steps, start = 0, time.thread_time()
        while (elapsed := time.thread_time() - start) < seconds:
            self._session.run(None, self._feed)
            steps += 1
        return steps * self._elements / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.03, help="for each measurement")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--text", type=Path, help="the text of the shakespeare model's training")
    parser.add_argument("--train", type=float, help="seconds; takes --text")
    options = parser.parse_args()
    if options.train and not options.text:
        parser.error("--train takes --text")
    print_speeds(list(random_models(options.hidden)), options.rounds, options.seconds)
    print_qualities(list(trained_models(options.text, options.train)))
    Console().print(" · ".join(f"{key} {value}" for key, value in machine().items()))


def random_models(hidden: list[int]) -> Iterator[Pair]:
    for size in hidden:
        shape = Shape(hidden=size, layers=2, embedded=64, vocabulary=VOCABULARY)
        yield Pair.of(f"LSTM 2 x {size}", *lstm(shape))
    for size in hidden:
        yield Pair.of(
            f"GRU 2 x {size}",
            *Net(
                cell="GRU",
                layers=2,
                hidden=size,
                width=64,
                out=96,
                attributes={"linear_before_reset": 1},
            ).build(),
        )


def trained_models(text: Path | None, seconds: float | None) -> Iterator[tuple[Pair, Measure]]:
    for name, measure in measures(text, MODELS / "weather" / "holdout.csv").items():
        yield Pair.read(name, MODELS / name / "1" / "model.onnx"), measure
    if text is not None and seconds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            train(text, HIDDEN, seconds, path)
            yield Pair.read(f"characters 2 x {HIDDEN}", path), perplexity(text)


def print_speeds(pairs: list[Pair], rounds: int, seconds: float) -> None:
    table = Table(title="Elements/s, one thread, random weights", title_justify="left")
    table.add_column("model", no_wrap=True)
    for column in ("bytes", "int8", "rows x chunk", "float32/s", "int8/s", "ratio", "fastest"):
        table.add_column(column, justify="right")
    for pair in pairs:
        for shape in SHAPES:
            loads = [Load(*model, *shape) for model in (pair.before, pair.after)]
            for load in loads:
                load.elements_per_second(0.0)
            rates = [[load.elements_per_second(seconds) for load in loads] for _ in range(rounds)]
            before, after = zip(*rates, strict=True)
            first = shape == SHAPES[0]
            table.add_row(
                pair.name if first else "",
                f"{pair.before[0].ByteSize():,}" if first else "",
                f"{pair.after[0].ByteSize():,}" if first else "",
                f"{shape[0]} x {shape[1]}",
                f"{median(before):,.0f}",
                f"{median(after):,.0f}",
                f"{median(new / old for old, new in rates):.2f}",
                f"{max(after) / max(before):.2f}",
            )
    Console().print(table)


def print_qualities(measured: list[tuple[Pair, Measure]]) -> None:
    table = Table(title="Quality of trained models", title_justify="left")
    for column in ("model", "bytes", "int8", "figure", "float32", "int8", "change"):
        table.add_column(column, justify="left" if column in ("model", "figure") else "right")
    for pair, measure in measured:
        before, after = (measure.measure(Whole(*model)) for model in (pair.before, pair.after))
        table.add_row(
            pair.name,
            f"{pair.before[0].ByteSize():,}",
            f"{pair.after[0].ByteSize():,}",
            measure.name,
            f"{before:.4f}",
            f"{after:.4f}",
            f"{after / before - 1:+.2%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
