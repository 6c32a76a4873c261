"""Real servers in real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import elman
from tests.client import blocking
from tests.serverprocess import ServerProcess

Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def demo_server() -> Iterator[ServerProcess]:
    """A server with the bundled models. Shared: tests leave it as they found it."""
    with ServerProcess("--demo") as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Of the SDK for threads, and of that for asyncio made to look like it."""
    with ExitStack() as stack:
        if request.param == "threads":
            yield lambda *args, **options: stack.enter_context(elman.connect(*args, **options))
        else:
            loop = blocking.Loop()
            stack.callback(loop.close)
            yield lambda *args, **options: stack.enter_context(
                blocking.connect(loop, *args, **options)
            )
