"""Runs `elman` in this process, as a shell would see it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from elman.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def elman(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main(args)
        captured = capsys.readouterr()
        return Result(code=exit_.value.code or 0, out=captured.out, err=captured.err)

    return run
