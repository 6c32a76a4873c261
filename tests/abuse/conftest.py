"""A server for those who abuse one, and what it held before."""

from collections.abc import Iterator

import pytest

from tests.abuse.innocent import Innocent
from tests.abuse.readings import at_rest, check_nothing_left
from tests.serverprocess import ServerProcess


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo") as server:
        # What a first connection and a first call leave for good is not an attack's.
        with Innocent(server.target) as innocent:
            innocent.stop()
        yield server


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """With the bundled models and default settings; each test leaves it as it found it."""
    before = at_rest(shared_server)
    yield shared_server
    check_nothing_left(shared_server, before)
