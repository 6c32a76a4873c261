"""What the deployment files are held against: the program's own configuration."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from elman.cli.program import elman
from elman_server.cli.settings import SETTINGS
from elman_server.config import ServerConfig


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load(root: Path) -> Callable[[str], Any]:
    """Reads a YAML file by its path in the repository."""
    return lambda path: yaml.safe_load((root / path).read_text())


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., click.Context]:
    """Parses a command line of `elman` as the program would, without running it.

    Fails for an unknown subcommand, flag or `ELMAN_*` variable, and for a wrong value.
    """

    def parse(args: Sequence[str], environment: Mapping[str, str] | None = None) -> click.Context:
        known = {setting.variable for setting in SETTINGS.values()}
        for variable, value in (environment or {}).items():
            assert not variable.startswith("ELMAN_") or variable in known, variable
            assert isinstance(value, str), f"{variable} must be quoted"
            monkeypatch.setenv(variable, value)
        command = elman.get_command(elman.make_context("elman", list(args)), args[0])
        assert command is not None
        return command.make_context(args[0], list(args[1:]))

    return parse


@pytest.fixture
def configured(parse: Callable[..., click.Context]) -> Callable[..., ServerConfig]:
    """The configuration with which a command line of `elman serve` would start."""

    def configured(
        args: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> ServerConfig:
        context = parse(args, environment)
        assert context.info_name == "serve"
        return ServerConfig(**context.params)

    return configured
