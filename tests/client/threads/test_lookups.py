"""Lookups of one model by many threads, and the first thread's failure or interrupt."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import elman
from elman._core.models import KnownModel, model_request
from elman._threads.lookups import Lookups
from elman.v1 import inference_pb2 as pb
from tests.client.peer import KNOWN
from tests.waiting import until

REQUEST = model_request("echo", None)
THREADS = 5


class Servers:
    """Servers that answer once the other threads wait."""

    def __init__(self, *answers: KnownModel | BaseException) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.others_wait: Callable[[], bool] = lambda: True

    def ask(self, exchange: Any) -> KnownModel:
        next(exchange)
        self.asked += 1
        answer = self._answers.pop(0)
        if self.asked == 1:
            until(self.others_wait)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def look_up(servers: Servers, request: pb.GetModelRequest) -> list[Future[KnownModel]]:
    """The results of lookups at once, by as many threads."""
    lookups = Lookups(servers)  # type: ignore[arg-type]

    def others_wait() -> bool:
        fetch = lookups._cache.fetch(request)
        return fetch is not None and len(fetch.waiters) == THREADS - 1

    servers.others_wait = others_wait
    with ThreadPoolExecutor(THREADS) as threads:
        return [threads.submit(lookups.get, request) for _ in range(THREADS)]


def test_concurrent_lookups_of_a_model_share_a_request() -> None:
    servers = Servers(KNOWN)
    assert [result.result() for result in look_up(servers, REQUEST)] == [KNOWN] * THREADS
    assert servers.asked == 1


def test_a_failure_is_raised_in_each_thread_as_an_error_of_its_own() -> None:
    servers = Servers(elman.ModelNotFound("no model 'echo'"))
    errors = [result.exception() for result in look_up(servers, REQUEST)]
    assert [str(error) for error in errors] == ["no model 'echo'"] * THREADS
    assert {type(error) for error in errors} == {elman.ModelNotFound}
    assert len({id(error) for error in errors}) == THREADS
    assert servers.asked == 1


def test_after_an_interrupt_of_the_first_thread_another_makes_the_request() -> None:
    servers = Servers(KeyboardInterrupt(), KNOWN)
    results = look_up(servers, REQUEST)
    errors = [result.exception() for result in results]
    assert [type(error) for error in errors if error] == [KeyboardInterrupt]
    assert [result.result() for result in results if not result.exception()] == [KNOWN] * (
        THREADS - 1
    )
    assert servers.asked == 2


def test_a_second_interrupt_of_a_thread_stops_no_later_lookup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups = Lookups(Servers(KeyboardInterrupt(), KNOWN))  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(lookups._cache, "remove_fetch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lookups.get(REQUEST)
    assert lookups._cache.fetch(REQUEST) is not None
    assert lookups.get(REQUEST) is KNOWN


def interrupted(_: pb.GetModelRequest) -> None:
    raise KeyboardInterrupt


def test_the_model_of_a_named_session_is_requested_each_time() -> None:
    servers = Servers(KNOWN, KNOWN)
    lookups = Lookups(servers)  # type: ignore[arg-type]
    for _ in range(2):
        assert lookups.get(model_request("echo", None, session="mine")) is KNOWN
    assert servers.asked == 2


def test_a_model_that_was_not_found_is_requested_again() -> None:
    servers = Servers(elman.ModelNotFound("no model 'echo'"), KNOWN)
    lookups = Lookups(servers)  # type: ignore[arg-type]
    with pytest.raises(elman.ModelNotFound):
        lookups.get(REQUEST)
    assert lookups.get(REQUEST) is KNOWN
