"""The worked example of the vanishing gradient asks what it says it asks, and runs to its end."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from elman_server.model import modelfile
from examples.horizon.__main__ import ALONE, TOGETHER, run
from examples.horizon.gradient import endings, norms
from examples.horizon.jobs import Job, work
from examples.horizon.networks import INITS
from examples.horizon.tables import FIGURES, TRIED, tables
from examples.horizon.task import LETTERS, NOTHING, Task
from examples.horizon.training import QUICK, Choice, untrained

ROOT = Path(__file__).parents[2]
TASK = Task(lags=(5, 10, 20, 50))


def test_a_prompt_asks_for_the_letter_after_its_mark_a_lag_ago() -> None:
    streams = TASK.streams(32, 300, np.random.default_rng(0))
    asked = np.argwhere(streams.lags > 0)
    assert len(asked) > 300
    for row, place in asked:
        lag = int(streams.lags[row, place])
        elements = streams.elements[row]
        assert TASK.names[elements[place]] == f"prompt {lag}"
        assert TASK.names[elements[place - lag - 1]] == f"mark {lag}"
        assert TASK.labels[streams.answers[row, place]] == TASK.names[elements[place - lag]]
    assert (streams.answers[streams.lags == 0] == NOTHING).all()


def test_every_lag_is_asked_for_about_as_often() -> None:
    streams = TASK.streams(256, 1000, np.random.default_rng(0))
    counts = [int((streams.lags == lag).sum()) for lag in TASK.lags]
    assert max(counts) < 1.3 * min(counts)


def test_letters_to_remember_look_like_those_to_forget() -> None:
    streams = TASK.streams(256, 1000, np.random.default_rng(0))
    asked = np.bincount(streams.answers[streams.lags > 0], minlength=len(LETTERS))
    assert asked == pytest.approx(np.full(len(LETTERS), asked.mean()), rel=0.15)
    assert (streams.elements < len(LETTERS)).mean() > 0.85


@pytest.mark.parametrize("kind", INITS)
def test_the_gradient_at_lag_0_is_that_of_the_answers_head(kind: str) -> None:
    network = untrained(QUICK, Choice(kind=kind, init="default"))
    found = norms(QUICK, network, 4, longest=6, warm_up=3)
    x, answers = endings(QUICK.task, 4, 9)
    with torch.no_grad():
        wrong = torch.softmax(network(x)[:, -1], dim=-1)
        wrong[torch.arange(len(x)), answers] -= 1
        expected = (wrong @ network.head.weight).norm(dim=-1).mean()
    assert len(found) == 7
    assert found[0] == pytest.approx(float(expected), rel=1e-4)


def test_the_gradient_further_back_is_the_slope_of_the_loss() -> None:
    network = untrained(QUICK, Choice(kind="RNN", init="orthogonal")).double()
    x, answers = endings(QUICK.task, 4, 9)
    with torch.no_grad():
        embedded = network.embedding(x)
        _, state = network.body(embedded[:, :7])

        def loss(state: torch.Tensor) -> torch.Tensor:
            hidden, _ = network.body(embedded[:, 7:], state)
            return torch.nn.functional.cross_entropy(
                network.head(hidden[:, -1]), answers, reduction="none"
            )

        step = 1e-6
        slopes = [
            (loss(state + step * unit) - loss(state - step * unit)) / (2 * step)
            for unit in torch.eye(QUICK.hidden, dtype=torch.float64)
        ]
    expected = torch.stack(slopes).norm(dim=0).mean()
    # The state after 7 of 10 elements is that of lag 3.
    found = norms(QUICK, network, 4, longest=6, warm_up=3)
    assert found[3] == pytest.approx(float(expected), rel=1e-5)


def test_every_initialisation_that_was_tried_makes_a_network() -> None:
    for kind, inits in INITS.items():
        for init in inits:
            network = untrained(QUICK, Choice(kind=kind, init=init))
            assert network(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, len(LETTERS) + 1)


def test_it_trains_exports_measures_and_draws(tmp_path: Path) -> None:
    result = CliRunner().invoke(run, ["--quick", "--jobs", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [list(figures[part]) for part in ("alone", "gradient_before")] == [
        [choice.label for choice in ALONE]
    ] * 2
    assert [list(figures[part]) for part in ("together", "gradient_after", "horizon")] == [
        [choice.label for choice in TOGETHER]
    ] * 3
    for choice in TOGETHER:
        assert set(figures["together"][choice.label]) == {"2", "4"}
        assert figures["horizon"][choice.label]["lags"] == 8
        spec = modelfile.read(tmp_path / choice.kind.lower() / "1" / "model.onnx").spec
        assert spec.input.vocabulary == QUICK.task.names
    assert figures["parameters"]["LSTM"] > figures["parameters"]["RNN"]
    for name in ("accuracy", "gradient", "influence"):
        ElementTree.parse(tmp_path / f"horizon-{name}.svg")


def test_without_matplotlib_it_says_what_to_install_before_it_trains(tmp_path: Path) -> None:
    """In a process of its own, whose imports find no matplotlib."""
    program = (
        "import runpy, sys; sys.modules['matplotlib'] = None; "
        "runpy.run_module('examples.horizon', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", program, "--output", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: the pictures need matplotlib: pip install -e '.[server,export,plot]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_training_in_another_process_gives_the_same_network() -> None:
    job = Job(plan=QUICK.alone(2), choice=Choice(kind="RNN", init="default"))
    [here], [there] = list(work([job], 1)), list(work([job], 2))
    assert there.job == job
    assert there.right == here.right
    for name, value in here.weights.items():
        assert np.array_equal(there.weights[name], value)


def test_the_page_says_what_the_run_found() -> None:
    page = (ROOT / "docs" / "horizon.md").read_text(encoding="utf-8")
    for table in tables(json.loads(FIGURES.read_text()), json.loads(TRIED.read_text())):
        assert table in page
