"""Many sessions in one RPC, without sockets, threads or a clock."""

import pytest

import elman
from elman._core.session.pipeline import Pipeline
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import resolve
from elman.v1 import inference_pb2 as pb
from tests.client.peer import MODEL, letters
from tests.client.peer_link import PeerLink, finished, read

LAYOUT = resolve(MODEL, None)
FRAME = 400
"""A small limit of a frame's bytes, so that what is pushed is split."""


def test_the_first_frame_names_the_model_and_opens_what_was_opened_meanwhile() -> None:
    link = PeerLink()
    sessions = [link.open() for _ in range(3)]
    frame = link.write()
    assert frame is not None
    assert [opened.session for opened in frame.opens] == [s.number for s in sessions] == [1, 2, 3]
    assert [(s.opened, s.id, s.window) for s in sessions] == [(True, str(i), 4) for i in (1, 2, 3)]
    assert link.write() is None


def test_what_was_pushed_since_the_last_frame_goes_out_in_one() -> None:
    link = PeerLink()
    a, b = link.opened(), link.opened()
    finished(a.push("ab"))
    finished(b.push("c"))
    finished(a.push("d"))
    a.close()
    frame = link.write()
    assert frame is not None
    assert list(frame.push.sessions) == [1, 2]
    assert list(frame.push.counts) == [3, 1]
    assert frame.push.text == "abdc"
    assert list(frame.closes) == [1]


def test_equal_counts_are_left_out() -> None:
    link = PeerLink()
    sessions = [link.opened() for _ in range(3)]
    for session in sessions:
        finished(session.push("ab"))
    frame = link.write()
    assert frame is not None and not frame.push.counts
    link.answer()
    assert [letters(read(session)) for session in sessions] == ["ab"] * 3


def test_an_operation_waits_until_the_server_has_opened_its_session() -> None:
    link = PeerLink()
    session = link.open()
    opening, push = session.opening(), session.push("a")
    assert next(opening) and next(push)
    link.write()
    assert link.woken
    finished(opening)
    finished(push)


def test_a_push_waits_while_the_window_is_full() -> None:
    link = PeerLink(window=2)
    session = link.opened()
    push = session.push("abcde")
    assert next(push)
    assert (session.pushed, session.room) == (2, 0)
    link.write()
    link.answer(_1=1)
    assert next(push)
    assert session.pushed == 3
    link.write()
    link.answer()
    finished(push)
    assert session.pushed == 5
    assert letters(read(session)) == "abc"


def test_a_push_is_timed_anew_after_every_answer() -> None:
    link = PeerLink(window=2)
    push = link.opened().push("abcde")
    before = next(push)
    assert next(push) == before
    link.write()
    link.answer(_1=1)
    assert next(push) not in (before, 0)


def test_a_session_of_its_own_smaller_window_holds_that() -> None:
    link = PeerLink(window=100)
    options = SessionOptions(layout=LAYOUT, window=3)
    session = link.multiplexer.open(options, lambda: None)
    link.write()
    assert session.window == 3


def test_frames_hold_no_more_than_they_may() -> None:
    link = PeerLink(window=1000, max_frame_bytes=FRAME)
    sessions = [link.opened() for _ in range(5)]
    for session in sessions:
        finished(session.push("abcdefgh" * 50))
        session.close()
    sizes = []
    while (frame := link.write()) is not None:
        sizes.append(frame.ByteSize())
    assert max(sizes) <= FRAME
    link.answer()
    assert [letters(read(session)) for session in sessions] == ["abcdefgh" * 50] * 5
    assert all(session.ended and session.failure is None for session in sessions)
    assert link.multiplexer.finished


def test_waiting_for_what_was_not_pushed_is_not_owed() -> None:
    link = PeerLink()
    session = link.opened()
    reading = session.next()
    assert next(reading) is False
    finished(session.push("a"))
    assert next(reading) is True
    link.write()
    link.answer()
    assert finished(reading)["echo"] == ord("a")


def test_what_is_in_flight_for_a_step_is_owed_to_nobody_else() -> None:
    session = PeerLink().opened()
    reading, step = session.next(), session.step("a")
    assert next(step) is True
    assert next(reading) is False
    step.close()
    assert next(reading) is True


def test_the_end_of_a_session_that_is_closing_is_owed() -> None:
    link = PeerLink()
    session = link.opened()
    reading = session.next()
    assert next(reading) is False
    session.close()
    assert next(reading) is True
    link.write()
    link.answer()
    assert finished(reading) is None


def test_a_step_that_is_given_up_leaves_its_prediction_in_its_place() -> None:
    link = PeerLink()
    session = link.opened()
    finished(session.push("a"))
    step = session.step("b")
    next(step)
    finished(session.push("c"))
    step.close()
    link.write()
    link.answer()
    assert letters(read(session)) == "abc"


def test_a_prediction_that_came_before_a_step_was_given_up_is_kept_in_order() -> None:
    link = PeerLink()
    session = link.opened()
    step = session.step("a")
    next(step)
    finished(session.push("b"))
    link.write()
    link.answer()
    step.close()
    predictions = read(session)
    assert letters(predictions) == "ab"
    assert [prediction.position for prediction in predictions] == [0, 1]


def test_a_pipeline_tops_the_window_up_as_answers_come() -> None:
    link = PeerLink(window=4)
    session = link.opened()
    pipeline = Pipeline(session, "abcdefgh")
    batch = pipeline.batch()
    assert next(batch) is True
    assert session.pushed == 4
    link.write()
    link.answer(_1=1)
    assert session.pushed == 4, "less than half of the window is free"
    link.answer(_1=1)
    assert session.pushed == 6
    assert letters(list(finished(batch))) == "ab"
    while link.write():
        link.answer()
    assert letters(list(finished(pipeline.batch()))) == "cdefgh"
    assert finished(pipeline.batch()) is None


def test_a_pipeline_that_nobody_reads_stops() -> None:
    link = PeerLink(window=4)
    session = link.opened()
    pipeline = Pipeline(session, "a" * 1000)
    next(pipeline.batch())
    while link.write():
        link.answer()
    assert session.pushed <= 3 * link.window


def test_a_reader_that_has_read_all_wakes_whoever_waited_to_feed() -> None:
    link = PeerLink(window=4)
    session = link.opened()
    pipeline = Pipeline(session)
    for letter in "abcd":
        assert finished(pipeline.feed(letter)) is True
    feeding = pipeline.feed("e")
    next(feeding)
    link.write()
    link.answer()
    unread = finished(pipeline.batch())
    next(feeding)
    assert letters(list(unread)) == "abcd"
    link.woken.clear()
    reading = pipeline.batch()
    next(reading)
    assert link.woken
    assert finished(feeding) is True
    link.write()
    link.answer()
    assert letters(list(finished(reading))) == "e"


def test_what_an_abandoned_pipeline_did_not_give_is_in_the_inbox_in_order() -> None:
    link = PeerLink(window=4)
    session = link.opened()
    pipeline = Pipeline(session, "abcdefgh")
    batch = pipeline.batch()
    next(batch)
    link.write()
    link.answer(_1=3)
    given = finished(batch)
    assert letters([next(given)]) == "a"
    pipeline.abandon()
    pushed = session.pushed
    while link.write():
        link.answer()
    assert letters(read(session)) == "abcdefgh"[1:pushed]
    assert session.pushed == pushed


def test_sessions_of_different_outputs_are_read_by_their_own() -> None:
    link = PeerLink()
    both, one = link.opened(), link.opened(["twice"])
    finished(both.push("ab"))
    finished(one.push("c"))
    link.write()
    link.answer()
    assert letters(read(both)) == "ab"
    (prediction,) = read(one)
    assert prediction["twice"].tolist() == [ord("c")] * 2
    assert list(prediction) == ["twice"]


def test_a_refused_element_ends_its_session_only() -> None:
    link = PeerLink()
    wrong, right = link.opened(), link.opened()
    for session in (wrong, right):
        finished(session.push("a"))
    step = wrong.step("b")
    next(step)
    link.write()
    closed = link.peer.close(1, pb.CLOSE_REASON_INVALID_ELEMENT)
    link.multiplexer.receive(pb.StreamResponse(closed=[closed]))
    for operation in (step, wrong.step("a"), wrong.push("a"), wrong.next()):
        with pytest.raises(elman.InvalidElement, match="as scripted"):
            next(operation)
    link.answer()
    assert letters(read(right)) == "a"
    assert not link.multiplexer.finished


def test_a_closed_that_crossed_a_push_is_passed_over() -> None:
    link = PeerLink()
    first, second = link.opened(), link.opened()
    closed = link.peer.close(1, pb.CLOSE_REASON_STEP_FAILED)
    link.multiplexer.receive(pb.StreamResponse(closed=[closed]))
    link.multiplexer.receive(pb.StreamResponse(closed=[closed]))
    assert first.ended and not second.ended
    with pytest.raises(elman.ServerError, match="session 3"):
        link.multiplexer.receive(pb.StreamResponse(closed=[pb.Closed(session=3)]))


def test_the_end_of_the_rpc_is_told_to_every_session_by_what_it_lost() -> None:
    link = PeerLink()
    opened = link.opened()
    finished(opened.push("a"))
    link.write()
    link.answer()
    waiting = link.open()
    opening = waiting.opening()
    next(opening)
    link.multiplexer.fail(elman.Unavailable("gone"))
    assert letters(read(opened)) == "a"
    with pytest.raises(elman.SessionLost, match="1 answered") as lost:
        next(opened.next())
    assert lost.value.position == 1
    with pytest.raises(elman.Unavailable, match="gone"):
        next(opening)
    assert link.multiplexer.finished


def test_a_session_that_is_finished_short_of_its_elements_is_an_error() -> None:
    link = PeerLink()
    session = link.opened()
    finished(session.push("a"))
    link.write()
    closed = link.peer.close(1, pb.CLOSE_REASON_FINISHED)
    link.multiplexer.receive(pb.StreamResponse(closed=[closed]))
    with pytest.raises(elman.ServerError, match="unanswered"):
        next(session.next())


@pytest.mark.parametrize(
    "predictions",
    [
        pb.Predictions(sessions=[7], first_positions=[0]),
        pb.Predictions(sessions=[1], first_positions=[1]),
        pb.Predictions(sessions=[1], first_positions=[0], counts=[2]),
        pb.Predictions(sessions=[1, 2], first_positions=[0]),
        pb.Predictions(sessions=[1, 2], first_positions=[0, 0], counts=[1]),
        pb.Predictions(sessions=[1, 3], first_positions=[0, 0]),
    ],
    ids=["unknown", "position", "too many", "positions", "counts", "outputs"],
)
def test_predictions_that_break_the_protocol_are_an_error(predictions: pb.Predictions) -> None:
    link = PeerLink()
    for session in (link.opened(), link.opened(), link.opened(["twice"])):
        finished(session.push("a"))
    link.write()
    size = sum(predictions.counts) or len(predictions.sessions)
    predictions.outputs.add(values=bytes(4 * size))
    predictions.outputs.add(values=bytes(16 * size))
    with pytest.raises(elman.ServerError, match="the server"):
        link.multiplexer.receive(pb.StreamResponse(predictions=[predictions]))
