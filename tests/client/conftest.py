"""A fake server, and clients of it: tests that use these run over threads and over asyncio."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

import elman
from tests.client import blocking
from tests.client.fake_server import FakeServer

Connect = Callable[..., elman.Client]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """`elman.connect`, or `elman.aio.connect` behind its interface. Closes what it connected."""
    with ExitStack() as stack:
        if request.param == "threads":
            yield lambda target, **options: stack.enter_context(elman.connect(target, **options))
            return
        loop = blocking.Loop()
        stack.callback(loop.close)

        def connect(target: str, **options: Any) -> elman.Client:
            client = stack.enter_context(blocking.connect(loop, target, **options))
            return cast(elman.Client, client)

        yield connect


@pytest.fixture
def client(connect: Connect, server: FakeServer) -> elman.Client:
    return connect(server.target)
