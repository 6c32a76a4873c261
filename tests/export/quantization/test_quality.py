"""What int8 costs the bundled models, by the figures of their own tasks."""

import numpy as np
import onnx
import pytest

from benchmarks.quantization_quality import Measure, Whole, measures
from elman_export.quantization import quantize
from elman_server.model import modelfile
from tests.export.test_bundled import MODELS, TEXT, perplexity

MEASURES = measures(None, MODELS / "weather" / "holdout.csv")


def _perplexity(model: Whole) -> float:
    ids = np.array([model.spec.input.vocabulary.index(letter) for letter in TEXT])
    return perplexity(model(ids[None, :-1])[0], ids[1:])


@pytest.mark.parametrize(
    ("name", "measure", "lost"),
    [
        ("sentiment", MEASURES["sentiment"], 0.01),
        ("weather", MEASURES["weather"], 0.03),
        ("shakespeare", Measure("perplexity", _perplexity), 0.01),
    ],
)
def test_a_bundled_model_is_nearly_as_good_and_much_smaller(
    name: str, measure: Measure, lost: float
) -> None:
    path = MODELS / name / "1" / "model.onnx"
    model, spec = onnx.load(path), modelfile.read(path).spec
    small, small_spec = quantize(model, spec)
    before, after = measure.measure(Whole(model, spec)), measure.measure(Whole(small, small_spec))
    assert after == pytest.approx(before, rel=lost)
    assert after != before
    assert small.ByteSize() < 0.4 * path.stat().st_size
