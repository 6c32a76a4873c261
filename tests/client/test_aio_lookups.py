"""Lookups of one model by many tasks, and the first task's failure."""

import asyncio
from typing import Any

import elman
from elman._core.models import KnownModel, model_request
from elman.aio._lookups import Lookups
from tests.client.peer import KNOWN

REQUEST = model_request("echo", None)
TASKS = 5


class Servers:
    """Servers that answer in a later turn of the event loop."""

    def __init__(self, answer: KnownModel | BaseException) -> None:
        self._answer = answer
        self.asked = 0

    async def ask(self, exchange: Any) -> KnownModel:
        next(exchange)
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


async def look_up(servers: Servers) -> list[KnownModel | BaseException]:
    lookups = Lookups(servers)  # type: ignore[arg-type]
    results = (lookups.get(REQUEST) for _ in range(TASKS))
    return await asyncio.gather(*results, return_exceptions=True)


async def test_concurrent_lookups_of_a_model_share_a_request() -> None:
    servers = Servers(KNOWN)
    assert await look_up(servers) == [KNOWN] * TASKS
    assert servers.asked == 1


async def test_a_failure_is_raised_in_each_task_as_an_error_of_its_own() -> None:
    servers = Servers(elman.ModelNotFound("no model 'echo'"))
    errors = await look_up(servers)
    assert {type(error) for error in errors} == {elman.ModelNotFound}
    assert len({id(error) for error in errors}) == TASKS
    assert servers.asked == 1
