"""`elman export` reruns a recipe, and says in one line what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from elman_export.cli import RECIPES, export
from elman_export.recipes import shakespeare, weather
from elman_server import modelfile

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
    assert "elman export weather --output models/" in result.output


def test_an_unknown_recipe_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("poems")
    assert result.exit_code == 2
    assert "'poems' is not one of 'sentiment', 'shakespeare', 'weather'" in result.output


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
