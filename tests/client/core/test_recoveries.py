"""Sessions that go on when their RPC breaks, without sockets, threads or a clock."""

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elman
from elman._core.session.session import Session
from elman.errors import ElmanError
from elman.v1 import inference_pb2 as pb
from tests.client.peer import ALPHABET, MODEL, letters
from tests.client.peer_link import finished, read
from tests.client.roaming import MOVED, OVERLOADED, PARKED, REJECTED, SHUTDOWN, TICKET, Rig
from tests.client.test_interleavings import Caller


def opened(rig: Rig) -> Session:
    session = rig.open()
    rig.write()
    return session


def failure(session: Session) -> ElmanError:
    assert session.failure is not None
    return session.failure()


@settings(deadline=None)
@given(st.data())
def test_nothing_is_lost_doubled_or_reordered_whatever_breaks(data: st.DataObject) -> None:
    window = data.draw(st.integers(1, 9), "window")
    rig = Rig(
        window=window,
        ticket_every=data.draw(st.integers(1, 7), "ticket every"),
        max_frame_bytes=data.draw(st.sampled_from([30, 100, 5000]), "frame"),
        resume_timeout=1e9,
    )
    callers = [Caller(rig.open()) for _ in range(3)]
    while rig.write():
        pass
    whats = ["push", "step", "map", "close", "write", "write", "answer", "answer", "mend"]
    events = st.sampled_from([*whats, "break", "hand over", "park", "ask for ticket", "refuse"])
    for _ in range(data.draw(st.integers(0, 60), "length")):
        rpc = data.draw(st.integers(0, len(rig.rpcs) - 1), "rpc")
        match data.draw(events, "event"):
            case "write":
                rig.write(rpc)
            case "answer":
                rig.answer(data.draw(st.integers(0, window)), rpc)
            case "mend":
                rig.mend()
            case "break":
                rig.break_rpc(rpc=rpc)
            case "hand over":
                rig.hand_over(rpc)
            case "park":
                rig.hand_over(rpc, PARKED)
            case "refuse":
                rig.server.refuses = data.draw(st.sampled_from([None, SHUTDOWN, OVERLOADED]))
            case "ask for ticket":
                session = data.draw(st.sampled_from(callers)).session
                if not session.closing:
                    asked = session.take_ticket()
                    next(asked, None)
            case action:
                caller = data.draw(st.sampled_from(callers))
                caller.do(action, data.draw(st.text(ALPHABET, min_size=1, max_size=20)))
        for caller in callers:
            caller.go_on()
            assert caller.session.in_flight <= max(1, window)
    for _, server in rig.rpcs:
        server.refuses = None
    while not all(caller.session.ended for caller in callers):
        rig.settle()
        for caller in callers:
            if caller.go_on():
                caller.session.close()
    assert [caller.everything for caller in callers] == [caller.sent for caller in callers]
    assert all(caller.session.failure is None for caller in callers)
    assert not rig.recovery


def test_what_was_pushed_since_the_last_ticket_is_pushed_again_and_nothing_else() -> None:
    rig = Rig(ticket_every=3, window=100)
    session = opened(rig)
    for text in ("abcd", "ef"):
        finished(session.push(text))
        rig.write()
        rig.answer()
    rig.break_rpc()
    assert (session.ticket, session.ticket_position) == (TICKET + b"abcd", 4)
    finished(session.push("gh"))
    rig.mend()
    rig.write()
    assert rig.server.texts == {1: "abcdefgh"}
    rig.answer()
    assert letters(read(session)) == "abcdefgh"


def test_without_a_ticket_it_begins_again_on_the_same_network() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("ab"))
    rig.write()
    rig.break_rpc()
    rig.mend()
    frame = rig.rpcs[-1][0].take()
    assert frame is not None
    [again] = frame.opens
    assert (again.ticket, again.fingerprint) == (b"", MODEL.fingerprint)
    assert frame.push.text == "ab"


def test_what_is_kept_to_be_pushed_again_is_bounded_by_the_tickets() -> None:
    rig = Rig(ticket_every=100, window=50)
    session = opened(rig)
    most = 0
    for _ in range(2000):
        finished(session.push("a"))
        rig.write()
        rig.answer()
        read(session)
        replay = session.buffer._replay
        most = max(most, replay.stop - replay.start)
        assert len(replay._blocks) + len(replay._loose) < 100
    assert 90 < most <= 100


def test_it_waits_longer_with_every_try_and_gives_up_in_the_end() -> None:
    rig = Rig(resume_timeout=10.0, window=100)
    session = opened(rig)
    finished(session.push("abcdefgh"))
    rig.write()
    rig.answer()
    finished(session.push("a"))
    times = []
    rig.break_rpc()
    while not session.ended:
        rig.mend()
        times.append(rig.now)
        rig.break_rpc()
    waits = [later - sooner for sooner, later in zip([100.0, *times], times, strict=False)]
    assert [round(wait, 2) for wait in waits[:8]] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert times[-1] == 110.0
    error = failure(session)
    assert isinstance(error, elman.SessionLost)
    assert (error.position, error.ticket) == (8, TICKET + b"abcdefgh")
    assert "8 answered elements: cut" in str(error)
    assert letters(read(session)) == "abcdefgh"


def test_a_try_that_succeeds_begins_the_waiting_anew() -> None:
    rig = Rig()
    session = opened(rig)
    for _ in range(3):
        finished(session.push("a"))
        rig.break_rpc()
        before = rig.now
        rig.mend()
        assert round(rig.now - before, 3) == 0.05
        rig.write()
        assert session.retries.since is not None, "an open alone is no progress"
        rig.answer()
        assert session.retries.since is None


def test_a_session_that_was_never_opened_is_tried_elsewhere_for_a_shorter_time() -> None:
    rig = Rig()
    session = rig.open()
    rig.break_rpc()
    while not session.ended:
        rig.mend()
        rig.break_rpc()
    assert rig.now == 105.0
    assert isinstance(failure(session), elman.Unavailable)


def test_a_refusal_for_good_is_believed_when_all_servers_keep_to_it() -> None:
    rig = Rig(servers=2, resume_timeout=1e9)
    session = opened(rig)
    finished(session.push("abcdef"))
    rig.write()
    rig.answer()
    finished(session.push("g"))
    rig.break_rpc()
    tries = 0
    while not session.ended:
        rig.begin_rpc()
        rig.name = f"server {tries % 2}"
        rig.server.refuses = REJECTED
        tries += rig.mend()
        rig.write()
    assert tries == 2 + 8 * 3
    error = failure(session)
    assert isinstance(error, elman.SessionLost)
    assert error.ticket == TICKET + b"abcdef"


def test_refusals_count_by_server_so_one_of_many_that_takes_a_session_is_found() -> None:
    """Behind one name, at random: how many addresses it has is not known."""
    random = Random(5)
    for _ in range(200):
        rig = Rig(resume_timeout=1e9)
        session = opened(rig)
        finished(session.push("a"))
        rig.break_rpc()
        while session.retries.since is not None:
            address = random.randrange(12)
            rig.name = str(address)
            rig.begin_rpc()
            rig.server.refuses = REJECTED if address else None
            rig.mend()
            rig.write()
            rig.answer()
            assert not session.ended


def test_a_server_that_takes_a_session_is_looked_for_quickly() -> None:
    rig = Rig(resume_timeout=1e9)
    session = opened(rig)
    finished(session.push("a"))
    rig.break_rpc()
    rig.mend()
    began = rig.now
    for number in range(20):
        rig.name = str(number)
        rig.server.refuses = REJECTED
        rig.write()
        rig.begin_rpc()
        rig.mend()
    assert rig.now - began < 5


def test_a_server_that_does_not_know_the_model_yet_is_not_the_end() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("a"))
    rig.break_rpc(elman.ModelNotFound("none yet"))
    assert not session.ended
    rig.settle()
    assert letters(read(session)) == "a"


def test_a_session_of_which_all_is_answered_and_that_was_closed_needs_no_other_server() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("ab"))
    rig.write()
    rig.answer()
    session.close()
    rig.break_rpc()
    assert (session.ended, session.failure) == (True, None)
    assert not rig.recovery


def test_a_session_that_was_closed_with_elements_on_their_way_gets_their_predictions() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("ab"))
    session.close()
    rig.write()
    rig.break_rpc()
    rig.settle()
    assert letters(read(session)) == "ab"
    assert (session.ended, session.failure) == (True, None)


def test_a_session_that_is_handed_over_goes_on_at_once_and_its_rpc_takes_no_more() -> None:
    rig = Rig(window=100)
    session, other = opened(rig), opened(rig)
    finished(session.push("abc"))
    rig.write()
    response = rig.server.hand_over([1, 2])
    finished(session.push("d"))
    rig.receive(response)
    before = rig.now
    assert rig.rpcs[0][0].draining
    assert rig.mend() == 1, "nothing waits for the other one"
    assert rig.now == before
    rig.write()
    assert rig.server.texts == {1: "abcd"}
    finished(other.push("e"))
    rig.settle()
    assert (letters(read(session)), letters(read(other))) == ("abcd", "e")


def test_no_time_runs_for_a_session_that_nothing_waits_for() -> None:
    rig = Rig(resume_timeout=10.0, ticket_every=4, window=100)
    session = opened(rig)
    finished(session.push("abcde"))
    rig.write()
    rig.answer()
    rig.break_rpc()
    assert rig.mend() == 0
    rig.now += 1000
    assert rig.recovery.next_at() == inf
    finished(session.push("f"))
    rig.settle()
    assert letters(read(session)) == "abcdef"


def test_a_ticket_that_nobody_waits_for_any_more_does_not_have_a_session_lost() -> None:
    rig = Rig(resume_timeout=10.0, window=100)
    session = opened(rig)
    asked = session.take_ticket()
    next(asked)
    rig.break_rpc()
    assert rig.recovery.next_at() < inf
    asked.close()
    rig.now += 1000
    assert rig.mend() == 0
    assert not session.ended
    finished(session.push("a"))
    rig.settle()
    assert letters(read(session)) == "a"


def test_a_session_is_lost_in_time_though_its_rpc_goes_on_without_answering() -> None:
    rig = Rig(resume_timeout=10.0, window=100)
    session, other = opened(rig), opened(rig)
    finished(session.push("a"))
    rig.break_rpc()
    rig.mend()
    rig.write()
    assert not rig.recovery.overdue(rig.now)
    rig.now = rig.recovery.next_at()
    assert rig.now == 110.0
    assert rig.recovery.overdue(rig.now) == [session]
    rig.rpcs[-1][0].give_up(session, lambda: elman.SessionLost("late"))
    assert isinstance(failure(session), elman.SessionLost)
    finished(other.push("b"))
    rig.settle()
    assert letters(read(other)) == "b"
    assert rig.rpcs[-1][1].texts.keys() == {2}, "the lost one is closed"


def test_a_server_that_repeats_its_answers_slowly_is_not_given_up() -> None:
    rig = Rig(resume_timeout=10.0, window=100, ticket_every=1000)
    session = opened(rig)
    finished(session.push("abcdefgh"))
    rig.write()
    rig.answer()
    finished(session.push("a"))
    rig.break_rpc()
    rig.mend()
    rig.write()
    for _ in range(8):
        rig.now += 7
        assert not rig.recovery.overdue(rig.now)
        rig.answer(1)
    rig.now += 20
    assert rig.recovery.overdue(rig.now) == [], "it has repeated one more"
    rig.now += 10
    assert rig.recovery.overdue(rig.now) == [session], "and no other one since"


def test_a_session_for_which_nothing_waits_any_more_is_not_given_up() -> None:
    rig = Rig(resume_timeout=10.0, window=100)
    session = opened(rig)
    asked = session.take_ticket()
    next(asked)
    rig.break_rpc()
    rig.mend()
    rig.write()
    asked.close()
    rig.now += 1000
    assert not rig.recovery.overdue(rig.now)
    finished(session.push("a"))
    rig.break_rpc()
    assert not session.ended, "its time begins with the push"


def test_what_its_servers_die_of_is_tried_less_and_less() -> None:
    rig = Rig(resume_timeout=60.0)
    session = opened(rig)
    finished(session.push("b"))
    kills = 0
    rig.break_rpc()
    while not session.ended:
        rig.mend()
        rig.write()  # it is opened again, which is no progress
        kills += 1
        rig.break_rpc()
    assert kills <= 12


def test_an_open_that_is_given_up_before_it_was_sent_is_not_sent() -> None:
    rig = Rig()
    kept, given_up = rig.open(), rig.open()
    given_up.close()
    assert (given_up.ended, given_up.failure) == (True, None)
    rig.write()
    assert rig.server.texts == {1: ""}
    kept.close()
    rig.settle()
    assert rig.rpcs[0][0].finished


def test_an_open_that_is_given_up_between_two_servers_is_not_tried_again() -> None:
    rig = Rig()
    session = rig.open()
    rig.break_rpc()
    session.close()
    assert session.ended
    assert rig.mend() == 0


def test_a_ticket_is_waited_for_across_a_broken_rpc() -> None:
    rig = Rig(ticket_every=1000, window=100)
    session = opened(rig)
    finished(session.push("abc"))
    asked = session.take_ticket()
    next(asked)
    rig.write()
    rig.break_rpc()
    rig.settle()
    assert finished(asked) == TICKET + b"abc"


def test_a_session_begins_where_its_ticket_says() -> None:
    rig = Rig()
    session = rig.open(ticket=TICKET + b"abc")
    rig.write()
    assert (session.pushed, session.answered) == (3, 3)
    finished(session.push("de"))
    rig.settle()
    assert [(p.position, chr(p["echo"])) for p in read(session)] == [(3, "d"), (4, "e")]
    rig.break_rpc()
    finished(session.push("f"))
    rig.settle()
    assert letters(read(session)) == "f"


@pytest.mark.parametrize("resume_timeout", [0.0, 60.0])
def test_without_tickets_or_time_a_session_is_lost_with_its_rpc(resume_timeout: float) -> None:
    rig = Rig(resume_timeout=resume_timeout)
    rig.server._ticket_every = 0 if resume_timeout else 5
    session = opened(rig)
    rig.break_rpc()
    assert isinstance(failure(session), elman.SessionLost)
    assert not rig.recovery


def test_a_parked_session_comes_back_with_the_next_element() -> None:
    rig = Rig(window=100)
    session = opened(rig)
    finished(session.push("abc"))
    rig.write()
    rig.hand_over(reason=PARKED)
    assert rig.mend() == 0
    assert not rig.write()
    finished(session.push("d"))
    rig.write()
    assert [server.texts for _, server in rig.rpcs] == [{}, {1: "abcd"}]
    rig.answer()
    assert letters(read(session)) == "abcd"


def test_of_several_sessions_on_an_rpc_one_may_be_parked() -> None:
    rig = Rig(window=100)
    session, other = opened(rig), opened(rig)
    finished(session.push("abc"))
    rig.write()
    rig.receive(rig.server.hand_over([1], PARKED))
    assert not rig.rpcs[0][0].draining
    finished(session.push("d"))
    finished(other.push("e"))
    rig.settle()
    assert len(rig.rpcs) == 1
    assert (letters(read(session)), letters(read(other))) == ("abcd", "e")


def test_what_crossed_the_parking_is_pushed_again_at_once() -> None:
    rig = Rig(window=100)
    session = opened(rig)
    finished(session.push("abc"))
    rig.write()
    response = rig.server.hand_over([1], PARKED)
    finished(session.push("d"))
    rig.receive(response)
    assert rig.mend() == 1
    rig.settle()
    assert letters(read(session)) == "abcd"


def test_a_parked_session_needs_no_server_to_be_closed_or_to_give_its_ticket() -> None:
    rig = Rig(window=100)
    session = opened(rig)
    finished(session.push("abc"))
    rig.write()
    rig.hand_over(reason=PARKED)
    assert finished(session.take_ticket()) == TICKET + b"abc"
    session.close()
    assert (session.ended, session.failure) == (True, None)
    assert not list(rig.recovery)


def test_a_session_that_every_server_dies_of_is_given_up() -> None:
    rig = Rig(resume_timeout=10.0)
    session = opened(rig)
    finished(session.push("a"))
    rig.write()
    rig.answer()
    finished(session.push("b"))
    tries = 0
    rig.break_rpc()
    while not session.ended:
        tries += rig.mend()
        rig.write()  # it is opened, and its element comes
        rig.break_rpc()
    assert rig.now == 110.0
    assert tries < 15
    assert isinstance(failure(session), elman.SessionLost)


def test_a_session_that_gets_on_is_given_its_time_anew() -> None:
    rig = Rig(resume_timeout=10.0, window=100)
    session = opened(rig)
    for _ in range(20):
        finished(session.push("ab"))
        rig.break_rpc()
        rig.mend()
        rig.write()
        assert session.retries.tries == 1
        rig.answer()
        assert session.retries.tries == 0
        rig.now += 5.0
    assert not session.ended


def test_those_who_were_told_the_same_time_do_not_come_back_at_the_same() -> None:
    uniform = Random(1).uniform
    rig = Rig(uniform=uniform)
    sessions = [rig.open() for _ in range(50)]
    rig.write()
    for session in sessions:
        finished(session.push("a"))
    rig.break_rpc()
    times: dict[Session, float] = {}
    rig.server.refuses = OVERLOADED
    rig.mend()
    rig.server.refuses = OVERLOADED
    rig.write()
    begun = rig.now
    while len(times) < len(sessions):
        now = rig.recovery.next_at()
        times |= dict.fromkeys(rig.recovery.due(now), now - begun)
    assert all(1.0 <= wait <= 5.0 for wait in times.values())
    assert len({round(wait, 1) for wait in times.values()}) > 10


def test_a_session_with_nothing_to_answer_that_is_closed_needs_no_server_again() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("a"))
    rig.write()
    rig.answer()
    rig.break_rpc()
    session.close()
    assert session.ended and session.failure is None
    assert rig.mend() == 0
    assert letters(read(session)) == "a"


def test_a_session_with_a_ticket_is_not_lost_with_its_credentials() -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("abcdef"))
    rig.write()
    rig.answer()
    rig.break_rpc(elman.AccessDenied("expired"))
    error = failure(session)
    assert isinstance(error, elman.SessionLost) and error.ticket == TICKET + b"abcdef"
    assert isinstance(error.__cause__, elman.AccessDenied)


def test_pushes_that_were_not_sent_before_their_sessions_were_parked_go_with_new_opens() -> None:
    rig = Rig(window=8, ticket_every=5, max_frame_bytes=200)
    sessions = [opened(rig) for _ in range(4)]
    opened(rig)  # and its RPC goes on
    for session in sessions:
        finished(session.push("abc"))
    rig.receive(rig.server.hand_over([1, 2, 3, 4], PARKED))
    rig.mend()
    rig.settle()
    assert [letters(read(session)) for session in sessions] == ["abc"] * 4


def test_what_was_closed_before_it_was_opened_is_not_opened_elsewhere() -> None:
    rig = Rig()
    session = rig.open()
    assert rig.rpcs[-1][0].take(), "the server was told of it"
    session.close()
    rig.break_rpc()
    assert session.ended
    assert rig.mend() == 0


@pytest.mark.parametrize("reason", [MOVED, PARKED])
def test_a_session_that_is_handed_over_again_and_again_is_tried_less_and_less_often(
    reason: pb.CloseReason.ValueType,
) -> None:
    rig = Rig()
    session = opened(rig)
    finished(session.push("a"))
    rig.break_rpc()
    until = rig.now + 30
    for _ in range(30):
        assert rig.mend()
        rig.server.refuses = reason
        rig.write()
    assert rig.now > until


@pytest.mark.parametrize("reason", [MOVED, PARKED, SHUTDOWN])
def test_a_session_that_was_never_opened_is_not_lost_whatever_its_server_says(
    reason: pb.CloseReason.ValueType,
) -> None:
    rig = Rig()
    session = rig.open()
    for _ in range(30):
        rig.server.refuses = reason
        rig.write()
        rig.mend()
    assert type(failure(session)) is elman.Unavailable
