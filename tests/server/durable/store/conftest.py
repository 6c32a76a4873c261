"""One Redis for all tests that let it live, and a world of each kind of store."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import FileWorld, RedisWorld, World


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["redis", "file"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made: RedisWorld | FileWorld
    if request.param == "redis":
        made = RedisWorld(request.getfixturevalue("redis_server").url)
    else:
        made = FileWorld(tmp_path)
    yield made
    for store in made.stores:
        await store.close()
