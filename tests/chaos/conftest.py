"""Both SDKs under the same faults."""

from functools import partial

import pytest

from tests.chaos.shells import Connect, connected


@pytest.fixture(params=["asyncio", "threads"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return partial(connected, request.param)
