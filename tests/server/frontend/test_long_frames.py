"""A frame that is taken in slices does what one that is taken at once does."""

from collections.abc import Callable

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import Conversation, LocalServer, push
from tests.stepmodels import ALPHABET

Logits = Callable[[str], bytes]

LONG = ALPHABET * 700
"""More elements than are taken at once."""
OTHER = ALPHABET[::-1] * 300


async def finished(stream: Conversation) -> grpc.StatusCode:
    await stream.half_close()
    return await stream.read_all()


async def test_a_long_push_is_answered_as_it_is_alone(server: LocalServer, logits: Logits) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2, 3], push=push({1: LONG, 2: "abc", 3: OTHER}))
    assert await finished(stream) is grpc.StatusCode.OK
    assert stream.values(1) == logits(LONG)
    assert stream.values(2) == logits("abc")
    assert stream.values(3) == logits(OTHER)


async def test_a_push_to_many_sessions_is_answered_as_they_are_alone(
    server: LocalServer, logits: Logits
) -> None:
    stream = server.stream()
    numbers = range(3000)
    texts = {n: (ALPHABET[n % len(ALPHABET) :] + "abc")[: n % 7] for n in numbers}
    await stream.send(opens=numbers, push=push(texts))
    assert await finished(stream) is grpc.StatusCode.OK
    expected = {text: logits(text) if text else b"" for text in set(texts.values())}
    assert all(stream.values(n) == expected[text] for n, text in texts.items())


@pytest.mark.parametrize("place", [0, 5, len(LONG) // 2, len(LONG)])
async def test_a_wrong_element_anywhere_in_a_long_push_ends_its_session_before_any_is_answered(
    server: LocalServer, logits: Logits, place: int
) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2, 3], push=push({1: "ab", 2: "ab", 3: "ab"}))
    wrong = LONG[:place] + "!" + LONG[place:]
    await stream.send(push=push({1: LONG, 2: wrong, 3: OTHER}))
    assert await finished(stream) is grpc.StatusCode.OK
    [closed] = stream.closed[2]
    assert closed.reason == pb.CLOSE_REASON_INVALID_ELEMENT
    assert closed.message == (
        f"element at position {2 + place}: character '!' is not in the model's vocabulary: "
        f"{ALPHABET!r}"
    )
    assert stream.values(1) == logits("ab" + LONG)
    assert stream.values(2) == logits("ab")
    assert stream.values(3) == logits("ab" + OTHER)


async def test_a_session_that_fails_while_its_frame_is_taken_is_closed_once(
    server: LocalServer,
) -> None:
    stream = server.stream()
    opens = [pb.Open(session=n, ticket=b"none" if n % 2 else b"") for n in range(2000)]
    pushes = push({n: "abc" for n in range(2000)})
    await stream.send(opens=opens, push=pushes)
    assert await finished(stream) is grpc.StatusCode.OK
    assert {len(closed) for closed in stream.closed.values()} == {1}
    assert {closed.reason for n in range(1, 2000, 2) for closed in stream.closed[n]} == {
        pb.CLOSE_REASON_TICKET_REJECTED
    }


async def unread(stream: Conversation) -> None:
    """Far more predictions than gRPC keeps for a client that does not read them."""
    await stream.send(opens=[1], push=push({1: ALPHABET * 20_000}))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"read_timeout": 1.0}, "slow"), ({"max_unread_bytes": 10_000}, "memory")],
)
async def test_a_call_whose_client_does_not_read_is_ended_and_nobody_elses(
    serve: Serve, logits: Logits, limits: dict[str, float], reason: str
) -> None:
    async with serve(**limits) as server:
        idle, reading = server.stream(), server.stream()
        await reading.send(opens=[1])
        await unread(idle)
        await server.until(lambda: server.admission.sessions == 2)
        await server.until(lambda: server.admission.sessions == 1)
        assert server.metric("elman_calls_given_up_total") == 1
        assert server.metric("elman_calls_given_up_total", reason=reason) == 1
        await reading.send(push=push({1: "abc"}))
        await reading.answered(1, 3)
        assert reading.values(1) == logits("abc")
        assert await finished(reading) is grpc.StatusCode.OK
        idle.call.cancel()


async def test_what_waits_for_a_client_that_does_not_read_is_bounded(server: LocalServer) -> None:
    stream = server.stream()
    await unread(stream)
    outbox = None
    await server.until(lambda: bool(server.servicer._streams))
    [rpc] = server.servicer._streams
    outbox = rpc._connection._outbox
    await server.until(lambda: outbox.full)
    bound = 4 * 65_536
    for _ in range(100):
        await server.until(lambda: True)
        assert server.engine().pending <= bound
    assert server.metric("elman_pending_elements") > bound
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    assert server.metric("elman_pending_elements") == 0
