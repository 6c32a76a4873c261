"""The server takes sessions and elements up to its limits, and no more."""

from functools import partial
from math import inf

import pytest

from elman_server.engine.admission import Admission, Waiting
from elman_server.errors import Overloaded, ShuttingDown


def admission(
    sessions: int = 2,
    pending: int = 10,
    contexts: int = 100,
    state: float = inf,
    pending_bytes: float = inf,
) -> Admission:
    return Admission(
        max_sessions=sessions,
        max_pending_elements=pending,
        max_context_bytes=contexts,
        retry_after=1.5,
        max_state_bytes=state,
        max_pending_bytes=pending_bytes,
    )


def test_sessions_beyond_the_limit_are_told_when_to_try_again() -> None:
    gate = admission(sessions=2)
    gate.admit()
    gate.admit()
    with pytest.raises(Overloaded, match=r"^2 sessions are open; max_sessions is 2$") as caught:
        gate.admit()
    assert caught.value.retry_after == 1.5
    assert gate.sessions == 2


def test_a_place_that_is_given_back_is_there_again() -> None:
    gate = admission(sessions=1)
    gate.admit()
    gate.release()
    gate.admit()
    assert gate.sessions == 1


def test_a_stopping_server_takes_nobody() -> None:
    gate = admission()
    gate.closed = True
    with pytest.raises(ShuttingDown, match=r"^the server is stopping$"):
        gate.admit()
    assert gate.sessions == 0


@pytest.mark.parametrize(
    ("waiting", "crowded"), [((0, 0), False), ((9, 0), False), ((5, 5), True), ((0, 11), True)]
)
def test_the_elements_of_all_models_together_crowd_it(
    waiting: tuple[int, int], crowded: bool
) -> None:
    gate = admission(pending=10)
    for count in waiting:
        gate.watch(Waiting(elements=partial(int, count)))
    assert gate.crowded is crowded


def test_a_model_that_is_gone_does_not_count_any_more() -> None:
    gate = admission(pending=10, contexts=100)
    gate.watch(Waiting(elements=lambda: 4, context_nbytes=lambda: 30))
    unwatch = gate.watch(Waiting(elements=lambda: 6, context_nbytes=lambda: 30))
    assert (gate.crowded, gate.crowded_by_contexts) == (True, True)
    unwatch()
    assert (gate.crowded, gate.crowded_by_contexts) == (False, False)


def test_a_session_that_brings_elements_along_is_refused_where_too_many_wait() -> None:
    gate = admission(pending=10)
    gate.watch(Waiting(elements=lambda: 10, context_nbytes=int))
    with pytest.raises(
        Overloaded, match=r"max_pending_elements is 10, max_pending_bytes inf$"
    ) as caught:
        gate.admit(elements=1)
    assert (caught.value.retry_after, gate.sessions) == (1.5, 0)
    gate.admit()
    assert gate.sessions == 1


def test_contexts_that_wait_for_their_sessions_to_begin_are_bounded() -> None:
    waiting = 0
    gate = admission(sessions=10, contexts=100)
    gate.watch(Waiting(elements=int, context_nbytes=lambda: waiting))
    gate.admit(context_nbytes=1000)  # alone, whatever its size
    waiting = 60
    assert gate.crowded_by_contexts
    gate.admit(context_nbytes=40)
    with pytest.raises(Overloaded, match=r"^60 bytes .* max_context_bytes is 100$") as caught:
        gate.admit(context_nbytes=41)
    assert (caught.value.retry_after, gate.sessions) == (1.5, 2)
    gate.admit()
    waiting = 50
    assert not gate.crowded_by_contexts


def test_who_waits_is_told_when_neither_elements_nor_contexts_crowd_it() -> None:
    elements, contexts = 10, 100
    told: list[str] = []
    gate = admission(pending=10, contexts=100)
    gate.watch(Waiting(elements=lambda: elements, context_nbytes=lambda: contexts))
    gate.wait(lambda: told.append("now"))
    elements = 0
    gate.relieve()
    assert told == []
    contexts = 0
    gate.relieve()
    gate.relieve()
    assert told == ["now"]


def test_sessions_are_admitted_by_the_bytes_of_their_state() -> None:
    gate = admission(sessions=10, state=100)
    gate.admit(state_nbytes=60)
    with pytest.raises(
        Overloaded,
        match=r"^the state of 1 sessions takes 60 bytes, and that of one more 41; "
        r"max_state_bytes is 100$",
    ) as caught:
        gate.admit(state_nbytes=41)
    assert (caught.value.retry_after, gate.sessions, gate.state_nbytes) == (1.5, 1, 60)
    gate.admit(state_nbytes=40)
    gate.release(60)
    gate.admit(state_nbytes=41)
    assert (gate.sessions, gate.state_nbytes) == (2, 81)


def test_the_bytes_of_elements_crowd_it_as_their_number_does() -> None:
    gate = admission(pending=10, pending_bytes=1000)
    waiting = 3
    gate.watch(Waiting(elements=lambda: waiting, element_nbytes=250))
    assert not gate.crowded
    waiting = 4
    assert gate.crowded


def test_frames_that_wait_to_be_taken_are_bounded() -> None:
    gate = admission(pending_bytes=100)
    with gate.hold_frame(60):
        refused = pytest.raises(Overloaded, match=r"60 bytes wait .* max_pending_bytes is 100$")
        with refused, gate.hold_frame(50):
            pass
        with gate.hold_frame(40):
            pass
    # One alone may be as large as a message.
    with gate.hold_frame(1000):
        pass
