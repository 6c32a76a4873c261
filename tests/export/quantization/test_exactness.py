"""A quantized step model answers each row as if it were alone, to the bit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_export.proof.stepmodel import Answer, StepModel
from elman_export.quantization import quantize
from elman_server.engine.limits import Chunking
from elman_server.model import modelfile
from elman_server.runner.model import StepModel as ServedModel
from elman_server.runner.probe import probe
from tests.export.quantization.graphs import Net
from tests.stepmodels import save

BATCHES = (1, 2, 3, 5, 64, 256)
TIME = 4

RELU = {"RNN": ["Relu"], "GRU": ["Sigmoid", "Relu"], "LSTM": ["Sigmoid", "Tanh", "Relu"]}

NETS = [
    Net(cell=cell, layers=layers, hidden=hidden, features=features, out=40)
    for cell in ("RNN", "GRU", "LSTM")
    for layers, hidden in ((1, 16), (2, 33), (1, 128))
    for features in (False, True)
] + [
    Net(cell="GRU", hidden=24, attributes={"linear_before_reset": 1}),
    *(Net(cell=cell, hidden=130, attributes={"activations": RELU[cell]}) for cell in RELU),
    Net(cell="LSTM", hidden=128, width=40, features=True, scale=50.0),
    Net(cell="LSTM", hidden=16, initial=3.0),
]


def quantized(net: Net) -> StepModel:
    model, spec = quantize(*net.build())
    return StepModel(model.SerializeToString(), spec)


def rows(answer: Answer, chosen: Sequence[int] | slice) -> bytes:
    """The bits of some rows' outputs and states."""
    values = [*answer.outputs.values(), *answer.states.values()]
    return b"".join(value[chosen].tobytes() for value in values)


EVERY = slice(None)


@pytest.mark.parametrize("net", NETS, ids=str)
def test_a_row_is_the_same_alone_and_in_every_batch(net: Net) -> None:
    model = quantized(net)
    x = net.elements(max(BATCHES), TIME)
    single = [[1] * TIME]
    for size in BATCHES:
        together = model.run(x[:size], single * size)
        # The same rows at the batch's other end: kernels treat the last rows apart.
        turned = model.run(x[:size][::-1], single * size)
        for row in range(min(size, 6)):
            alone = rows(model.run(x[row : row + 1], single), EVERY)
            assert rows(together, [row]) == alone
            assert rows(turned, [size - 1 - row]) == alone


@pytest.mark.parametrize("net", NETS, ids=str)
def test_a_sequence_is_the_same_in_every_chunking(net: Net) -> None:
    model = quantized(net)
    x = net.elements(5, 12)
    singles = model.run(x, [[1] * 12] * 5)
    for cuts in ([12], [5, 7], [1, 2, 3, 6], [11, 1]):
        assert rows(model.run(x, [cuts] * 5), EVERY) == rows(singles, EVERY)


@pytest.mark.parametrize("net", [net for net in NETS if net.features], ids=str)
def test_neighbours_with_extreme_values_change_nothing(net: Net) -> None:
    model = quantized(net)
    x = net.elements(7, TIME)
    alone = model.run_alone(x[:1], [[1] * TIME])
    for extreme in (0.0, 1e-38, -1e6, 3e38):
        x[1:] = extreme
        assert rows(model.run(x, [[1] * TIME] * 7), [0]) == rows(alone, EVERY)


@pytest.fixture(scope="module")
def gru() -> StepModel:
    return quantized(Net(cell="GRU", layers=2, hidden=20, features=True, width=3))


@given(data=st.data())
def test_any_rows_in_any_company_and_chunks(data: st.DataObject, gru: StepModel) -> None:
    batch, time = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sizes = np.array(data.draw(st.lists(st.sampled_from([0, 1e-3, 1, 1e4]), min_size=1)))
    x = rng.standard_normal((batch, time, 3)) * rng.choice(sizes, (batch, time, 1))
    places = sorted(data.draw(st.sets(st.integers(1, max(1, time - 1)))))
    cuts = np.diff([0, *(place for place in places if place < time), time]).tolist()
    row = data.draw(st.integers(0, batch - 1))
    together = gru.run(x.astype(np.float32), [cuts] * batch)
    alone = gru.run(x[row : row + 1].astype(np.float32), [[1] * time])
    assert rows(together, [row]) == rows(alone, EVERY)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_a_servers_probe_finds_that_rows_and_chunks_are_exact(
    cell: str, threads: int, tmp_path: Path
) -> None:
    path = save(*quantize(*Net(cell=cell, layers=2, hidden=48).build()), tmp_path / "model.onnx")
    served = ServedModel(modelfile.read(path), threads=threads, providers=["CPUExecutionProvider"])
    found = probe(served, max_batch_size=256, max_chunk=32)
    assert not found.dependent_rows
    assert not found.batch_failure
    assert found.chunking is Chunking.EQUAL
