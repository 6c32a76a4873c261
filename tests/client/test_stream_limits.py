"""Windows, timeouts, errors and ends of streams: every test runs over threads and asyncio."""

import threading
from collections.abc import Iterator

import grpc
import pytest

import elman
from elman.v1 import inference_pb2 as pb
from tests.client.conftest import Connect
from tests.client.fake_models import REFUSED, letter_totals
from tests.client.fake_server import FakeServer

SHORT = 0.05
"""A timeout of calls that the server never answers."""


def totals(predictions: Iterator[elman.Prediction]) -> list[int]:
    return [prediction["total"] for prediction in predictions]


def test_a_push_after_the_close_is_refused(client: elman.Client, server: FakeServer) -> None:
    with client.stream("letters") as stream:
        stream.step("a")
    for use in (stream.step, stream.push, stream.push_many, lambda x: list(stream.map(x))):
        with pytest.raises(elman.SessionClosed, match="after 1 elements"):
            use("b")
    assert server.pushed() == "a"


def test_a_full_window_makes_push_wait(connect: Connect, server: FakeServer) -> None:
    server.window = 2
    server.hold()
    with connect(server.target).stream("letters", timeout=SHORT) as stream:
        stream.push_many("ab")
        with pytest.raises(elman.DeadlineExceeded, match=r"0\.05 s"):
            stream.push("c")
        assert stream.position == 2
        server.release()


def test_a_stream_can_ask_for_a_smaller_window(client: elman.Client, server: FakeServer) -> None:
    server.hold()
    with client.stream("letters", window=1, timeout=SHORT) as stream:
        stream.push("a")
        with pytest.raises(elman.DeadlineExceeded):
            stream.push("b")
        server.release()


def test_the_prediction_of_a_step_that_gave_up_is_read_from_the_stream(
    client: elman.Client, server: FakeServer
) -> None:
    server.hold()
    # So long that a busy machine answers the second step within it.
    with client.stream("letters", timeout=10 * SHORT) as stream:
        with pytest.raises(elman.DeadlineExceeded):
            stream.step("a")
        server.release()
        assert next(stream)["total"] == 1
        assert stream.step("b")["total"] == letter_totals("ab")[-1]


def test_waiting_for_ones_own_pushes_is_not_timed(client: elman.Client) -> None:
    with client.stream("letters", timeout=SHORT) as stream:
        read: list[int] = []
        reader = threading.Thread(target=lambda: read.extend(totals(iter(stream))))
        reader.start()
        reader.join(3 * SHORT)
        stream.push("a")
        stream.close()
        reader.join()
        assert read == [1]


def test_a_wrong_element_is_refused_before_anything_is_sent(
    client: elman.Client, server: FakeServer
) -> None:
    with client.stream("letters") as stream:
        for element in ("B", "ab", "", 3, None, b"a"):
            with pytest.raises(elman.InvalidElement):
                stream.step(element)
        with pytest.raises(elman.InvalidElement, match=r"elements\[2\] is 'C'"):
            stream.push_many("abCd")
        assert stream.step("a")["total"] == 1
    assert server.pushed() == "a"


def test_an_element_that_the_server_refuses_ends_its_own_stream_only(
    client: elman.Client,
) -> None:
    with client.stream("letters") as wrong, client.stream("letters") as right:
        assert wrong.step("a")["total"] == 1
        with pytest.raises(elman.InvalidElement, match="'!'"):
            wrong.step(REFUSED)
        for use in (wrong.push, wrong.step, lambda _: next(wrong)):
            with pytest.raises(elman.InvalidElement, match="'!'"):
                use("a")
        assert right.step("a")["total"] == 1


def test_predictions_before_an_error_are_given_first(client: elman.Client) -> None:
    with client.stream("letters") as stream, client.stream("letters") as other:
        stream.push("a")
        other.step(
            "b"
        )  # Frames are answered in order, so this one's answer comes after that one's.
        stream.push(REFUSED)
        assert next(stream)["total"] == 1
        with pytest.raises(elman.InvalidElement):
            next(stream)


def test_a_broken_rpc_loses_its_sessions_and_says_where(
    client: elman.Client, server: FakeServer
) -> None:
    streams = [client.stream("letters") for _ in range(3)]
    for stream in streams:
        stream.step("a")
    server.break_rpcs()
    for stream in streams:
        with pytest.raises(elman.SessionLost, match="as scripted") as lost:
            next(stream)
        assert lost.value.position == 1
        with pytest.raises(elman.SessionLost):
            stream.step("b")
    with client.stream("letters") as stream:
        assert stream.step("a")["total"] == 1


def test_an_error_of_the_rpc_that_is_not_a_loss_keeps_its_kind(
    client: elman.Client, server: FakeServer
) -> None:
    stream = client.stream("letters")
    server.break_rpcs(grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(elman.AccessDenied):
        next(stream)


def test_a_server_that_stops_says_so(client: elman.Client, server: FakeServer) -> None:
    stream = client.stream("letters")
    stream.step("a")
    closed = pb.Closed(
        session=1, code=14, reason=pb.CLOSE_REASON_SHUTDOWN, message="stopping", position=1
    )
    server.send(pb.StreamResponse(closed=[closed]))
    with pytest.raises(elman.SessionLost, match="stopping") as lost:
        next(stream)
    assert lost.value.position == 1


def test_a_full_server_refuses_and_says_when_to_retry(
    client: elman.Client, server: FakeServer
) -> None:
    server.refusal = pb.Closed(
        code=8, reason=pb.CLOSE_REASON_OVERLOADED, message="full", retry_after_ms=2500
    )
    with pytest.raises(elman.ServerOverloaded, match="full") as refused:
        client.stream("letters")
    assert refused.value.retry_after == 2.5


@pytest.mark.parametrize(
    "nonsense",
    [
        pb.StreamResponse(predictions=[pb.Predictions(sessions=[99], first_positions=[0])]),
        pb.StreamResponse(predictions=[pb.Predictions(sessions=[1], first_positions=[5])]),
        pb.StreamResponse(
            predictions=[
                pb.Predictions(
                    sessions=[1], first_positions=[0], outputs=[pb.Values(values=b"123")] * 2
                )
            ]
        ),
    ],
    ids=["unknown session", "no outputs", "wrong size"],
)
def test_a_server_that_breaks_the_protocol_is_an_error_and_no_hang(
    client: elman.Client, server: FakeServer, nonsense: pb.StreamResponse
) -> None:
    stream = client.stream("letters")
    server.send(nonsense)
    with pytest.raises(elman.ServerError, match="the server"):
        next(stream)


def test_closing_the_client_ends_whoever_waits(client: elman.Client, server: FakeServer) -> None:
    server.hold()
    stream = client.stream("letters")
    stream.push("a")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            next(stream)
        except elman.ElmanError as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.close(grace=0)
    waiting.join()
    assert [type(error) for error in raised] == [elman.ClientClosed]
    with pytest.raises(elman.ClientClosed):
        client.stream("letters")


def test_closing_the_client_lets_what_was_pushed_finish(
    client: elman.Client, server: FakeServer
) -> None:
    stream = client.stream("letters")
    stream.push_many("abc")
    client.close()
    assert totals(iter(stream)) == letter_totals("abc")
