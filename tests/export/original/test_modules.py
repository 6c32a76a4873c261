"""Generated modules of every kind: exported, proved, and run once more without any of our code."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import elman_export
from elman_export.interface import States
from elman_server.model.spec import ModelSpec, StateSpec
from tests.export.generated import (
    CELL_KINDS,
    DTYPES,
    FEATURES,
    HIDDEN,
    KINDS,
    SIZE,
    Cells,
    Kind,
    Network,
    pairwise,
)

Steps = Callable[[Path, np.ndarray], Mapping[str, np.ndarray]]

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

X = np.random.default_rng(1).standard_normal((3, 6, FEATURES), np.float32)
ROWS = 300
BATCHES = (*range(1, 18), 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 300)
EVERY_BATCH = range(1, ROWS + 1)

SOME = list(pairwise(KINDS))
SOME_CELLS = list(pairwise(CELL_KINDS))


def outputs(module: nn.Module, kind: Kind) -> Sequence[elman_export.Output]:
    return [elman_export.values(f"y{number}") for number in range(1 + (kind.head == "two"))]


def export(module: nn.Module, kind: Kind, path: Path, **options: Any) -> elman_export.Report:
    return elman_export.export(
        module.to(DTYPES[kind.dtype]),
        path / "m.onnx",
        input=elman_export.features(FEATURES),
        outputs=outputs(module, kind),
        **options,
    )


def in_float32(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).float().eval()


def listed(found: Any, count: int) -> list[Tensor]:
    """The first `count` outputs in whatever a module returned."""
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found[0], dict):
        return list(found[0].values())
    return list(found[:count])


@torch.no_grad()
def whole(module: nn.Module, kind: Kind) -> list[np.ndarray]:
    """The module's outputs, `[batch, time, ...]`, in float32."""

    def run(x: np.ndarray) -> list[Tensor]:
        laid_out = torch.from_numpy(x if kind.batch_first else x.swapaxes(0, 1).copy())
        return listed(in_float32(module)(laid_out), 2)

    if kind.head in ("last", "final"):
        steps = [run(X[:, : time + 1])[0].numpy() for time in range(X.shape[1])]
        return [np.stack(steps, axis=1)]
    found = run(X)
    return [(each if kind.batch_first else each.transpose(0, 1)).numpy() for each in found]


@torch.no_grad()
def one_by_one(module: nn.Module, states: Sequence[States], kind: Kind) -> list[np.ndarray]:
    """The cells' outputs, `[batch, time, ...]`, in float32."""

    def first(state: States) -> Any:
        if isinstance(state, StateSpec):
            return torch.from_numpy(state.initial_value()).expand(len(X), -1)
        return tuple(map(first, state))

    network, now, steps = in_float32(module), list(map(first, states)), []
    count = 1 + (kind.head == "two")
    for time in range(X.shape[1]):
        found = network(torch.from_numpy(X[:, time]), *now)
        steps.append([each.numpy() for each in listed(found, count)])
        now = list(found[-len(states) :])
    return [np.stack(each, axis=1) for each in zip(*steps, strict=True)]


def check(
    report: elman_export.Report,
    expected: Sequence[np.ndarray],
    run: Steps,
    batches: Sequence[int],
) -> None:
    """Whether the file says the same one element at a time, and to any row in any company."""
    found = run(report.path, X)
    for output, value in zip(report.spec.outputs, expected, strict=True):
        assert output.dtype == "float32"
        np.testing.assert_allclose(found[output.name], value, rtol=1e-5, atol=5e-6)
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    feed = random_feed(report.spec)
    alone = [session.run(None, rows(feed, report.spec, row, row + 1)) for row in range(ROWS)]
    names = [each.name for each in session.get_outputs()]
    axes = {each.output: each.batch_axis for each in report.spec.states}
    together = {
        name: np.concatenate(parts, axes.get(name, 0))
        for name, parts in zip(names, zip(*alone, strict=True), strict=True)
    }
    for size in batches:
        for name, value in zip(
            names, session.run(None, rows(feed, report.spec, 0, size)), strict=True
        ):
            same = np.take(together[name], range(size), axes.get(name, 0))
            assert np.array_equal(value, same), f"{name} in a batch of {size}"


def random_feed(spec: ModelSpec) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(2)
    time = (1,) if spec.time_axis else ()
    feed = {spec.input.name: rng.standard_normal((ROWS, *time, FEATURES), np.float32)}
    for state in spec.states:
        shape = list(state.shape)
        shape.insert(state.batch_axis, ROWS)
        feed[state.input] = rng.standard_normal(shape, np.float32)
    if spec.lengths:
        feed[spec.lengths] = np.ones(ROWS, np.int32)
    return feed


def rows(
    feed: Mapping[str, np.ndarray], spec: ModelSpec, start: int, stop: int
) -> Mapping[str, np.ndarray]:
    axes = {state.input: state.batch_axis for state in spec.states}
    return {
        name: np.take(value, range(start, stop), axes.get(name, 0)) for name, value in feed.items()
    }


def sizes(kind: Kind) -> Iterator[tuple[int, ...]]:
    """The shapes of the states that a kind has, in order."""
    for _ in range(kind.layers):
        yield (1, SIZE if kind.cell == "projected" else HIDDEN)
        if kind.cell in ("lstm", "projected"):
            yield (1, HIDDEN)


def try_layers(kind: Kind, run: Steps, path: Path, batches: Sequence[int]) -> None:
    network = Network(kind)
    report = export(network, kind, path)
    assert [state.shape for state in report.spec.states] == list(sizes(kind))
    assert all((state.initial is not None) == kind.learned for state in report.spec.states)
    assert report.spec.time_axis
    assert report.spec.lengths
    assert report.proof.exact
    check(report, whole(network, kind), run, batches)


def try_cells(kind: Kind, run: Steps, path: Path, batches: Sequence[int]) -> None:
    network = Cells(kind)
    states = network.states()
    report = export(network, kind, path, states=states)
    assert {state.shape for state in report.spec.states} == {(HIDDEN,)}
    assert not report.spec.time_axis
    assert report.proof.exact
    check(report, one_by_one(network, states, kind), run, batches)


@pytest.mark.parametrize("kind", SOME, ids=str)
def test_a_network_of_layers(kind: Kind, step_by_step: Steps, tmp_path: Path) -> None:
    try_layers(kind, step_by_step, tmp_path, BATCHES)


@pytest.mark.parametrize("kind", SOME_CELLS, ids=str)
def test_a_network_of_cells(kind: Kind, step_by_step: Steps, tmp_path: Path) -> None:
    try_cells(kind, step_by_step, tmp_path, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_network_of_layers(kind: Kind, step_by_step: Steps, tmp_path: Path) -> None:
    try_layers(kind, step_by_step, tmp_path, EVERY_BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CELL_KINDS, ids=str)
def test_any_network_of_cells(kind: Kind, step_by_step: Steps, tmp_path: Path) -> None:
    try_cells(kind, step_by_step, tmp_path, EVERY_BATCH)
