"""The torch modules of docs/export.md become step models by the shell commands beside them."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from elman.cli import main
from elman_server.model import modelfile

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def module(name: str, path: Path) -> nn.Module:
    """The page's module of that name, in a file to be imported, too."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    code = next(block for block in blocks if f"class {name}(" in block)
    path.write_text(code, encoding="utf-8")
    names: dict[str, type[nn.Module]] = {}
    exec(compile(code, path.name, "exec"), names)
    return names[name]()


def export(source: str) -> None:
    """Runs the page's `elman` command that exports it."""
    found = re.search(rf"^elman (export {source} (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert found
    with pytest.raises(SystemExit) as exit_:
        main(shlex.split(found[1].replace("\\\n", " ")))
    assert not exit_.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current one, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_letters_are_exported(folder: Path) -> None:
    torch.save(module("NextLetter", folder / "letters.py").state_dict(), "letters.pt")
    (folder / "letters.txt").write_text(LETTERS, encoding="utf-8")
    export("letters:NextLetter")
    spec = modelfile.read(folder / "models" / "letters" / "1" / "model.onnx").spec
    assert spec.input.vocabulary == tuple(LETTERS)


def test_the_cell_that_takes_its_states_one_by_one_is_exported(folder: Path) -> None:
    torch.save(module("Flat", folder / "cells.py").state_dict(), "flat.pt")
    export("cells:Flat")
    spec = modelfile.read(folder / "models" / "cell" / "1" / "model.onnx").spec
    assert [state.name for state in spec.states] == ["h", "c"]
