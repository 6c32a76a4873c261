"""`elman export` takes graphs, modules and recipes, and says in one line what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from elman_export.cli.command import RECIPES, export
from elman_export.recipes import shakespeare, weather
from elman_server.model import modelfile
from elman_server.model.proof import kept_proof
from tests.export.surgery.graphs import FEATURES, per_step
from tests.oracle import Oracle

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(export, [*arguments, "--output", str(tmp_path / "models")])

    return run


def test_every_recipe_is_in_the_help() -> None:
    result = CliRunner().invoke(export, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in RECIPES)
    assert "elman export shakespeare --data tinyshakespeare.txt -o models/" in result.output


def test_a_source_that_is_nothing_names_what_is_allowed(invoke: Invoke) -> None:
    result = invoke("poems")
    assert result.exit_code == 1
    assert result.output == (
        "Error: 'poems' is no recipe (sentiment, shakespeare, weather), no package.module:factory "
        "and no file\n"
    )


@pytest.mark.parametrize("option", [("--overlap", "3"), ("--overlap", "0"), ("--tolerance", "0")])
def test_an_option_that_means_nothing_for_the_source_is_refused(
    option: tuple[str, str], invoke: Invoke
) -> None:
    result = invoke("weather", *option)
    assert result.exit_code == 1
    assert result.output == f"Error: {option[0]} means nothing for the recipe 'weather'\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--unknown", "?"), "--unknown is of --input text:FILE, which is not given"),
        (("--state", "h:a", "--state", "h:b"), "--state h is given twice; allowed is once"),
        (("--constant", "a=1", "--constant", "a=2"), "--constant a is given twice; allowed"),
        (("--output", "o.onnx", "--name", "other"), "--name other is of a model in a repository"),
    ],
)
def test_an_option_that_would_be_dropped_is_refused(
    more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = per_step("GRU").save(tmp_path / "noise.onnx")
    result = CliRunner().invoke(export, [str(path), "--output", str(tmp_path / "models"), *more])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {message}")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        (".", "models", ". is a folder; a graph is a file"),
        ("weather", "weather.onnx", "--output weather.onnx is a file; a recipe also writes a"),
        ("weather", "", "Invalid value for '--output' / '-o': it is empty; allowed is a file or"),
    ],
)
def test_what_is_no_file_or_no_repository_is_told(source: str, output: str, message: str) -> None:
    result = CliRunner().invoke(export, [source, "--output", output])
    assert result.exit_code != 0
    assert f"Error: {message}" in result.output


def test_the_current_folder_may_be_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    per_step("GRU").save(tmp_path / "noise.onnx")
    result = CliRunner().invoke(export, ["noise.onnx", "--output", "."])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "noise" / "1" / "model.onnx").exists()


def test_a_graph_of_whole_sequences_becomes_a_model_in_a_repository(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = per_step("GRU").save(tmp_path / "noise.onnx")
    np.save(tmp_path / "x.npy", np.ones((2, 5, FEATURES), np.float32))
    result = invoke(str(path), "--returns", "y=values", "--examples", str(tmp_path / "x.npy"))
    assert result.exit_code == 0, result.output
    assert "the same to the last bit in all of them" in result.output
    assert "examples" in result.output
    file = modelfile.read(tmp_path / "models" / "noise" / "1" / "model.onnx")
    assert [state.name for state in file.spec.states] == ["gru0.h"]


def test_a_refused_graph_is_one_line_and_no_file(invoke: Invoke, tmp_path: Path) -> None:
    path = per_step("GRU", direction="reverse").save(tmp_path / "noise.onnx")
    result = invoke(str(path))
    assert result.exit_code == 1
    assert result.output.startswith("Error: GRU 'gru_1' reads each sequence from its end")
    assert result.output.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_an_int8_export_tells_what_stays_float32(invoke: Invoke, tmp_path: Path) -> None:
    path = per_step("GRU").save(tmp_path / "noise.onnx")
    result = invoke(str(path), "--quantize", "int8")
    assert result.exit_code == 0, result.output
    assert "stays float32: 6 x 4 weights are too few to gain by it" in result.output


def test_the_table_allows_a_difference_where_one_is_bounded(invoke: Invoke, tmp_path: Path) -> None:
    path = per_step("GRU").save(tmp_path / "noise.onnx")
    for options, bounded in (((), True), (("--quantize", "int8"), False)):
        result = invoke(str(path), *options)
        cells = [row.split("│") for row in result.output.splitlines() if row.startswith("│")]
        assert cells
        assert all(bool(row[-2].strip()) is bounded for row in cells), result.output
        proof = kept_proof(modelfile.read(tmp_path / "models" / "noise" / "1" / "model.onnx"))
        assert proof is not None
        differences = proof.document["differences"]
        assert all((each["tolerance"] is not None) is bounded for each in differences)


_MODULE = """
from torch import nn

class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.gru(self.embedding(x))[0])

class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.cell = nn.GRUCell(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x, h):
        h = self.cell(self.embedding(x), h)
        return self.head(h), h

class Told(Cell):
    def forward(self, x, h, topic, mood):
        return super().forward(x, h + topic + mood[:, None])

def number():
    return 7

class Needs(nn.Module):
    def __init__(self, size):
        super().__init__()

def leaves():
    raise SystemExit
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody's, in the current folder, and its vocabulary."""
    name = f"letters_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(_MODULE)
    (tmp_path / "abc.txt").write_text("abc")
    (tmp_path / "broken.py").write_text("def x(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


_SAID = ("--input", "text:abc.txt", "--returns", "next=logits")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_torch_module_with_its_weights(
    key: str, package: str, invoke: Invoke, tmp_path: Path
) -> None:
    import importlib

    module = importlib.import_module(package).Letters()
    torch.save({"epoch": 3, key: module.state_dict()}, tmp_path / "w.pt")
    result = invoke(f"{package}:Letters", "--weights", "w.pt", "--name", "letters", *_SAID)
    assert result.exit_code == 0, result.output
    oracle = Oracle(tmp_path / "models" / "letters" / "1" / "model.onnx")
    with torch.no_grad():
        expected = module(torch.tensor([[2, 0, 1]]))[0].numpy()
    found = [each["next"] for each in oracle.run("cab")]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_weights_that_were_saved_inside_of_a_wrapper(
    wrapper: str, package: str, invoke: Invoke, tmp_path: Path
) -> None:
    import importlib

    saved = importlib.import_module(package).Letters().state_dict()
    torch.save({f"{wrapper}{name}": value for name, value in saved.items()}, tmp_path / "w.pt")
    torch.save(saved, tmp_path / "plain.pt")
    fingerprints = set()
    for weights in ("w.pt", "plain.pt"):
        result = invoke(f"{package}:Letters", "--weights", weights, *_SAID)
        assert result.exit_code == 0, result.output
        assert "no --weights" not in result.output
        path = tmp_path / "models" / "Letters" / "1" / "model.onnx"
        fingerprints.add(modelfile.read(path).fingerprint)
    assert len(fingerprints) == 1


def test_what_was_not_given_and_what_was_there_is_told(package: str, invoke: Invoke) -> None:
    first, second = (invoke(f"{package}:Letters", *_SAID).output for _ in range(2))
    assert f"no --weights: its parameters are those that {package}:Letters made" in first
    assert "wrote " in first
    assert "replaced " in second


def test_a_torch_module_of_one_element_and_its_state(
    package: str, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke(f"{package}:Cell", "--state", "h:5", *_SAID)
    assert result.exit_code == 0, result.output
    spec = modelfile.read(tmp_path / "models" / "Cell" / "1" / "model.onnx").spec
    assert [(state.name, state.shape) for state in spec.states] == [("h", (5,))]
    assert not spec.time_axis


def test_a_torch_module_that_is_given_contexts(
    package: str, invoke: Invoke, tmp_path: Path
) -> None:
    told = ("--state", "h:5", "--context", "topic:5", "--context", "mood:")
    result = invoke(f"{package}:Told", *told, *_SAID)
    assert result.exit_code == 0, result.output
    spec = modelfile.read(tmp_path / "models" / "Told" / "1" / "model.onnx").spec
    assert [(each.name, each.shape) for each in spec.contexts] == [("topic", (5,)), ("mood", ())]


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("{}:Letters", (), "a torch module does not say what its elements are: pass --input"),
        ("{}:Letters", _SAID[:2], "a torch module does not say what it returns: pass --returns"),
        ("{}:Nothing", _SAID, "has no 'Nothing'"),
        ("{}:number", _SAID, "gives a int; it must give an nn.Module"),
        ("{}:Needs", _SAID, "required positional argument: 'size'; it is called without arguments"),
        ("{}:leaves", _SAID, "raises SystemExit; it is called without arguments"),
        ("broken:x", _SAID, "'broken:x': importing broken raises SyntaxError: invalid syntax"),
        ("my/nets.py:x", _SAID, "no module named 'my/nets'; allowed is its name, as 'my.nets'"),
        (".{}:Letters", _SAID, "names no factory; allowed is package.module:factory"),
        ("no_such_package:x", _SAID, "no module named 'no_such_package'"),
        ("{}:Letters", (*_SAID, "--weights", "gone.pt"), "--weights gone.pt: No such file"),
        ("{}:Letters", (*_SAID, "--weights", "abc.txt"), "--weights abc.txt holds no state dict"),
        ("{}:Letters", (*_SAID, "--weights", "other.pt"), "it lacks embedding.weight"),
        ("{}:Letters", (*_SAID, "--state", "h:hn"), "allowed for a torch module is NAME:SHAPE"),
        ("{}:Told", (*_SAID, "--context", "mood"), "allowed for a torch module is NAME:SHAPE"),
        ("{}:Letters", (*_SAID, "--overlap", "3"), "--overlap means nothing for a torch module"),
    ],
)
def test_a_module_that_can_not_be_had_is_one_line(
    source: str, more: tuple[str, ...], message: str, package: str, invoke: Invoke, tmp_path: Path
) -> None:
    torch.save({"linear.weight": torch.zeros(2)}, tmp_path / "other.pt")
    result = invoke(source.format(package), *more)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_weights_that_would_run_code_are_not_read(
    package: str, invoke: Invoke, tmp_path: Path
) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path(tmp_path / "harmed"),)  # type: ignore[return-value]

    (tmp_path / "harm.pt").write_bytes(pickle.dumps(Harm()))
    result = invoke(f"{package}:Letters", *_SAID, "--weights", "harm.pt")
    assert result.exit_code == 1
    assert "holds no state dict that can be read without running code in it" in result.output
    assert result.output.endswith("write one with torch.save(module.state_dict(), file)\n")
    assert not (tmp_path / "harmed").exists()


def test_shakespeare_asks_for_its_text(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("shakespeare")
    assert result.exit_code == 1
    assert result.output.startswith("Error: no text is given: pass any text file with --data")
    assert not (tmp_path / "models").exists()


def test_a_text_that_is_too_short_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("To be, or not to be.")
    result = invoke("shakespeare", "--data", str(text))
    assert result.exit_code == 1
    assert result.output == f"Error: {text} is too short: it takes 64,000 characters\n"


def test_a_recipe_writes_a_repository_with_a_card(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weather, "_STEPS", 200)
    monkeypatch.setattr(weather, "_WINDOW", 8)
    result = invoke("weather")
    assert result.exit_code == 0, result.output
    assert "temperature" in result.output
    folder = tmp_path / "models" / "weather"
    assert sorted(path.name for path in folder.iterdir()) == ["1", "README.md", "holdout.csv"]
    assert modelfile.read(folder / "1" / "model.onnx").spec.outputs[0].name == "temperature"
    assert "| persistence: like the last hour | 0.578 | 0.753 |" in (
        (folder / "README.md").read_text(encoding="utf-8")
    )


def test_a_text_is_split_in_order() -> None:
    text = shakespeare.split("abcdefghijklmnopqrst" * 5)
    assert text.vocabulary == tuple("abcdefghijklmnopqrst")
    assert [len(part) for part in (text.train, text.validation, text.test)] == [90, 5, 5]
    assert "".join(text.vocabulary[i] for i in text.test) == "pqrst"
