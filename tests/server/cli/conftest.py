"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from elman.cli import main
from tests.server.cli.program import Result, Run
from tests.stepmodels import save_lstm


@pytest.fixture
def elman(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `elman` in this process."""

    def run(*args: str | Path) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code=exit_.value.code or 0, out=captured.out, err=captured.err)

    return run


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    return save_lstm(tmp_path / "letters" / "1" / "model.onnx")
