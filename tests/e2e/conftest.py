"""Real servers in real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serverprocess import ServerProcess


@pytest.fixture(scope="session")
def demo_server() -> Iterator[ServerProcess]:
    """A server with the bundled models. Shared: tests leave it as they found it."""
    with ServerProcess("--demo") as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"
