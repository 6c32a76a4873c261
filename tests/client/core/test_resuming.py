"""What is pushed again goes in pieces, and opens carry their pushes: without sockets or a clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman._core.recovery import resuming as _resuming
from elman._core.session.session import Session
from elman.v1 import inference_pb2 as pb
from tests.client.peer import ALPHABET, letters
from tests.client.peer_link import finished, read
from tests.client.roaming import PARKED, TICKET, Rig


def take(rig: Rig) -> pb.StreamRequest | None:
    """The next frame, which the server has not got."""
    return rig.rpcs[-1][0].take()


def opened(rig: Rig, count: int = 1) -> list[Session]:
    sessions = [rig.open() for _ in range(count)]
    while rig.write():
        pass
    return sessions


def through_a_proxy(rig: Rig, sessions: list[Session], limit: int) -> int:
    """Until all is answered, by RPCs that break with the element after so many; how many RPCs it
    took. The server answers when the client waits for it, and not before."""
    rpcs, let_through = 1, 0
    while any(session.in_flight for session in sessions):
        if rig.mend():
            let_through = 0
            rpcs += 1
        frame = take(rig)
        if frame is None:
            rig.answer()
            continue
        let_through += len(frame.push.text)
        if let_through > limit:
            rig.break_rpc()
        else:
            rig.receive(rig.server.take(pb.StreamRequest.FromString(frame.SerializeToString())))
    return rpcs


@settings(deadline=None)
@given(
    limit=st.integers(3, 200),
    texts=st.lists(st.text(ALPHABET, min_size=1, max_size=400), min_size=1, max_size=3),
    every=st.sampled_from([10, 100_000]),
)
def test_whatever_a_proxy_lets_through_a_resume_gets_on(
    limit: int, texts: list[str], every: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_resuming, "RESUME_BYTES", 512)
        patch.setattr(_resuming, "_LEAST_BYTES", 1)
        rig = Rig(window=400, ticket_every=every, resume_timeout=1e9)
        sessions = opened(rig, len(texts))
        for session, text in zip(sessions, texts, strict=True):
            finished(session.push(text))
        through_a_proxy(rig, sessions, limit)
    assert [letters(read(session)) for session in sessions] == texts


def test_a_resume_pushes_a_piece_and_goes_on_with_its_ticket() -> None:
    text = "abcdefgh" * 40_000
    rig = Rig(window=len(text), ticket_every=10**6, max_frame_bytes=1 << 20, resume_timeout=1e9)
    [session] = opened(rig)
    finished(session.push(text))
    while rig.write():
        pass
    rig.break_rpc()
    rig.mend()
    pieces = []
    while session.in_flight:
        while (frame := take(rig)) is not None:
            pieces.append(frame)
            rig.receive(rig.server.take(pb.StreamRequest.FromString(frame.SerializeToString())))
        rig.answer()
    assert len(pieces) > 4
    assert all(len(piece.push.text) * 4 <= _resuming.RESUME_BYTES for piece in pieces)
    assert all(list(piece.tickets) == [1] for piece in pieces)
    assert letters(read(session)) == text


def test_many_that_resume_together_share_what_is_on_its_way() -> None:
    rig = Rig(window=10_000, ticket_every=10**6, max_frame_bytes=1 << 20, resume_timeout=1e9)
    sessions = opened(rig, 100)
    for session in sessions:
        finished(session.push("a" * 10_000))
    while rig.write():
        pass
    rig.break_rpc()
    rig.mend()
    sent = 0
    while (frame := take(rig)) is not None:
        sent += len(frame.push.text)
        rig.receive(rig.server.take(pb.StreamRequest.FromString(frame.SerializeToString())))
    assert 0 < sent * 4 <= _resuming.RESUME_BYTES
    rig.answer()
    rig.settle()
    assert [len(read(session)) for session in sessions] == [10_000] * 100


def test_those_that_are_opened_do_not_wait_for_those_that_resume() -> None:
    rig = Rig(window=200_000, ticket_every=10**6, max_frame_bytes=1 << 20, resume_timeout=1e9)
    [session] = opened(rig)
    finished(session.push("a" * 200_000))
    while rig.write():
        pass
    rig.break_rpc()
    rig.mend()
    while rig.write():
        pass
    assert session.buffer.pending, "it waits for a ticket"
    [other] = opened(rig)
    finished(other.push("b"))
    assert rig.write()
    rig.answer()
    assert letters(read(other)) == "b"


@pytest.mark.parametrize("frame_bytes", [100, 1000, 1 << 20])
def test_streams_that_are_woken_together_push_with_their_opens(frame_bytes: int) -> None:
    rig = Rig(window=100, max_frame_bytes=frame_bytes)
    sessions = opened(rig, 500)
    for session in sessions:
        finished(session.push("a"))
    rig.settle()
    rig.hand_over(reason=PARKED)
    for session in sessions:
        finished(session.push("b"))
    woken = 0
    while (frame := take(rig)) is not None:
        assert [each.session for each in frame.opens] == list(frame.push.sessions)
        woken += len(frame.opens)
        rig.receive(rig.server.take(pb.StreamRequest.FromString(frame.SerializeToString())))
    assert woken == 500
    rig.answer()
    assert all(letters(read(session)) == "ab" for session in sessions)


def test_pushes_and_closes_do_not_wait_for_many_opens() -> None:
    rig = Rig(window=100, max_frame_bytes=500)
    first, last = opened(rig, 2)
    for _ in range(1000):
        rig.open()
    finished(first.push("a"))
    last.close()
    rig.write()
    rig.write()
    rig.answer()
    assert letters(read(first)) == "a"
    assert last.ended


def test_a_piece_of_a_session_that_ends_is_of_no_account_any_more() -> None:
    rig = Rig(window=200_000, ticket_every=10**6, max_frame_bytes=1 << 20, resume_timeout=1e9)
    sessions = opened(rig, 2)
    for session in sessions:
        finished(session.push("a" * 100_000))
    while rig.write():
        pass
    rig.break_rpc()
    rig.mend()
    while rig.write():
        pass
    [number] = [number for number, text in rig.server.texts.items() if text]
    closed = pb.Closed(session=number, code=3, reason=pb.CLOSE_REASON_INVALID_ELEMENT, message="x")
    del rig.server.texts[number]
    rig.receive(pb.StreamResponse(closed=[closed]))
    rig.settle()
    assert sorted(len(read(session)) for session in sessions) == [0, 100_000]


def test_large_tickets_go_alone() -> None:
    """Each may be nearly as large as a message may be."""
    rig = Rig(window=10_000, ticket_every=1, max_frame_bytes=5000, resume_timeout=1e9)
    sessions = [rig.open(ticket=TICKET + b"a" * 9000) for _ in range(4)]
    while rig.write():
        pass
    for session in sessions:
        finished(session.push("bc"))
    rig.break_rpc()
    for session in sessions[2:]:
        finished(session.push("de"))
    rig.mend()
    while any(session.in_flight for session in sessions):
        while (frame := take(rig)) is not None:
            assert len(frame.opens) < 2
            assert frame.ByteSize() < 9000 + 500
            rig.receive(rig.server.take(pb.StreamRequest.FromString(frame.SerializeToString())))
        rig.answer()
    assert [letters(read(session)) for session in sessions] == ["bc", "bc", "bcde", "bcde"]


@pytest.mark.parametrize("frame_bytes", [30, 5000])
def test_a_session_that_comes_back_to_the_rpc_that_it_was_parked_on_pushes_once(
    frame_bytes: int,
) -> None:
    """It may still be in line there, from before."""
    rig = Rig(window=100, ticket_every=100, max_frame_bytes=frame_bytes, resume_timeout=1e9)
    session, other = opened(rig, 2)
    finished(session.push("abcdefgh" * 3))
    rig.write()
    rig.receive(rig.server.hand_over([1], PARKED))
    for text in ("a", "b"):
        rig.mend()
        finished(session.push(text))
        finished(other.push(text))
    rig.settle()
    assert letters(read(session)) == "abcdefgh" * 3 + "ab"
    assert letters(read(other)) == "ab"
