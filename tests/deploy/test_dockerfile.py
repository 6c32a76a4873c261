"""The image starts the program as it is, open to its network, as an ordinary user."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from elman_server.config import ServerConfig


@pytest.fixture
def instructions(root: Path) -> list[tuple[str, str]]:
    """`(INSTRUCTION, arguments)` in order, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (root / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def final(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """The last stage's instructions."""
    return dict(instructions)


@pytest.fixture
def environment(final: dict[str, str]) -> dict[str, str]:
    variables = dict(word.split("=", 1) for word in final["ENV"].split())
    return {name: value for name, value in variables.items() if name.startswith("ELMAN_")}


def test_the_base_image_is_a_build_argument_of_every_stage(
    instructions: list[tuple[str, str]], root: Path
) -> None:
    assert instructions[0] == ("ARG", "BASE=python:3.13-slim")
    assert [rest for word, rest in instructions if word == "FROM"] == [
        "${BASE} AS build",
        "${BASE}",
    ]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert "Programming Language :: Python :: 3.13" in project["classifiers"]


def test_it_starts_the_server_for_everyone_on_its_network(
    final: dict[str, str],
    environment: dict[str, str],
    configured: Callable[..., ServerConfig],
) -> None:
    assert json.loads(final["ENTRYPOINT"]) == ["elman"]
    config = configured(json.loads(final["CMD"]), environment)
    assert config.host == "0.0.0.0"
    assert config.demo
    assert final["EXPOSE"].split() == [str(config.port), str(config.metrics_port)]


def test_its_health_check_is_a_command_of_the_program(
    final: dict[str, str], parse: Callable[..., click.Context]
) -> None:
    program, *args = json.loads(final["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "elman"
    context = parse(args)
    assert context.info_name == "health"
    assert context.params["target"] == f"localhost:{ServerConfig(demo=True).port}"


def test_it_runs_as_a_numbered_user_that_is_not_root(final: dict[str, str]) -> None:
    user, group = map(int, final["USER"].split(":"))
    assert user > 0
    assert group > 0


def test_what_it_copies_exists_and_is_let_through(
    instructions: list[tuple[str, str]], root: Path
) -> None:
    ignored, *others = (root / ".dockerignore").read_text().splitlines()
    assert ignored == "*"
    let_through = {line.removeprefix("!") for line in others if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_through
    assert all((root / source).exists() for source in copied)
