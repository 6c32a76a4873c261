"""A client's own calls over real sockets: every test runs over threads and over asyncio."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf

import grpc
import numpy as np
import pytest

import elman
from elman._core.rpc.multiplexer import Multiplexer
from tests.client.conftest import Connect
from tests.client.fake_models import LETTERS, REFUSED, letter_totals
from tests.client.fake_server import FakeServer
from tests.waiting import until

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "restarting", ())


def test_it_lists_the_models(client: elman.Client) -> None:
    letters, tokens, pairs, scalars, begun = client.models()
    assert (letters.name, letters.version, letters.fingerprint) == ("letters", "2", "f00d")
    assert letters.description == "sums of letters"
    assert letters.input == elman.Input(
        kind=elman.InputKind.TEXT,
        dtype=None,
        shape=(),
        size=len(LETTERS),
        vocabulary=tuple(LETTERS),
        accepts_unknown=False,
    )
    assert [output.name for output in letters.outputs] == ["total", "next"]
    assert tokens.input.kind is elman.InputKind.TOKENS
    assert pairs.input.shape == (2,)
    assert str(scalars) == "scalars (version 1): features float64 -> level: values float64"
    assert (letters.contexts, [context.name for context in begun.contexts]) == (
        (),
        ["start", "pair"],
    )


def test_it_describes_one_model(client: elman.Client) -> None:
    assert client.model("letters") == client.model("letters", 2) == client.models()[0]


@pytest.mark.parametrize("version", ["7", 7])
def test_an_unknown_model_or_version_is_not_found(client: elman.Client, version: str) -> None:
    with pytest.raises(elman.ModelNotFound, match="'nope'"):
        client.model("nope")
    with pytest.raises(elman.ModelNotFound):
        client.stream("letters", version=version)
    with pytest.raises(LookupError):
        client.predict("nope", "a")


def test_predict_gives_the_predictions_of_a_whole_sequence(
    client: elman.Client, server: FakeServer
) -> None:
    predictions = client.predict("letters", "good", outputs=["total"])
    assert predictions["total"].tolist() == letter_totals("good")
    assert [p.position for p in predictions] == [0, 1, 2, 3]
    assert predictions[-1]["total"] == letter_totals("good")[-1]
    assert "Stream" not in server.calls


def test_predict_of_nothing_is_nothing(client: elman.Client) -> None:
    predictions = client.predict("letters", "")
    assert (len(predictions), predictions["next"].shape) == (0, (0, len(LETTERS)))
    assert client.predict("pairs", [])["sums"].shape == (0, 2)
    assert client.predict("pairs", np.zeros((0, 2)))["sums"].shape == (0, 2)


def test_predict_streams_what_does_not_fit_into_a_message(
    connect: Connect, server: FakeServer
) -> None:
    text = "abcdef" * 500
    client = connect(server.target, max_message_bytes=16_384)
    assert client.predict("letters", text, outputs=["total"])["total"].tolist() == letter_totals(
        text
    )
    assert "Predict" not in server.calls
    top = client.predict("letters", text, outputs=[elman.Top("next", 2)])["next"]
    assert (top.values.shape, top.indices.shape) == ((3000, 2), (3000, 2))
    server.window = 1024
    with client.stream("letters", outputs=["total"]) as stream:
        assert [p["total"] for p in stream.map(text)] == letter_totals(text)


def test_predict_streams_what_the_server_finds_too_large(
    client: elman.Client, server: FakeServer
) -> None:
    server.max_answer = 3
    assert client.predict("letters", "good")["total"].tolist() == letter_totals("good")
    assert server.calls[-2:] == ["Predict", "Stream"]


def test_predict_of_an_empty_answer_through_a_stream(
    client: elman.Client, server: FakeServer
) -> None:
    server.max_answer = -1
    assert len(client.predict("letters", "")) == 0


def test_what_the_server_refuses_in_predict_is_an_invalid_request(client: elman.Client) -> None:
    with pytest.raises(elman.InvalidRequest, match=REFUSED):
        client.predict("letters", REFUSED)
    with pytest.raises(elman.InvalidElement, match=r"elements\[1\]"):
        client.predict("letters", "aB")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["wrong"], "'wrong'; model 'letters' has 'total', 'next'"),
        ([], "empty"),
        ([elman.Probabilities("total")], "use Raw"),
        ([elman.Top("total", 1)], "scalar"),
        ([elman.Top("next", 0)], "from 1 to 29"),
        ([elman.Top("next", 30)], "from 1 to 29"),
        (["next", elman.Top("next", 2)], "twice"),
        ([3], "names, Raw, Probabilities and Top"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_before_anything_is_sent(
    client: elman.Client, server: FakeServer, outputs: list[elman.OutputChoice], message: str
) -> None:
    for use in (
        lambda: client.stream("letters", outputs=outputs),
        lambda: client.predict("letters", "a", outputs=outputs),
    ):
        with pytest.raises(elman.InvalidRequest, match=message):
            use()
    assert set(server.calls) == {"GetModel"}


def test_one_output_needs_no_list(client: elman.Client) -> None:
    assert list(client.predict("letters", "a", outputs="total")[0]) == ["total"]
    probabilities = client.predict("letters", "a", outputs=elman.Probabilities("next"))["next"]
    assert probabilities.sum() == pytest.approx(1)


def test_calls_that_hold_no_state_are_tried_again(client: elman.Client, server: FakeServer) -> None:
    server.failures = [UNAVAILABLE, UNAVAILABLE]
    assert client.model("letters").name == "letters"
    assert server.calls == ["GetModel"] * 3


def test_an_overloaded_server_says_when_to_try_again(
    client: elman.Client, server: FakeServer
) -> None:
    client.stream("letters").close()
    trailer = (("grpc-retry-pushback-ms", "1500"),)
    server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailer)]
    with pytest.raises(elman.ServerOverloaded, match="full") as refused:
        client.predict("letters", "a")
    assert refused.value.retry_after == 1.5


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, elman.AccessDenied),
        (grpc.StatusCode.PERMISSION_DENIED, elman.AccessDenied),
        (grpc.StatusCode.DEADLINE_EXCEEDED, elman.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, elman.ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, elman.ServerError),
    ],
)
def test_every_status_is_an_error_of_the_tree(
    client: elman.Client,
    server: FakeServer,
    code: grpc.StatusCode,
    error: type[elman.ElmanError],
) -> None:
    server.failures = [(code, "as scripted", ())]
    with pytest.raises(error, match="as scripted"):
        client.models()


def test_streams_opened_at_once_look_their_model_up_once(
    client: elman.Client, server: FakeServer
) -> None:
    server.hold_models()
    with ThreadPoolExecutor(8) as threads:
        opening = [threads.submit(client.stream, "letters") for _ in range(8)]
        until(lambda: "GetModel" in server.calls)
        server.release()
        streams = [each.result() for each in opening]
    for stream in streams:
        stream.close()
    assert server.calls == ["GetModel", "Stream"]


def test_a_model_that_was_asked_for_is_remembered(client: elman.Client, server: FakeServer) -> None:
    for _ in range(3):
        client.predict("letters", "a")
    assert server.calls.count("GetModel") == 1


def test_nobody_there_is_unavailable_with_the_reason(connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(elman.Unavailable, match=rf"{target} within 0\.3 s: .*refused"):
            connect(target, connect_timeout=0.3)


def test_it_waits_for_a_server_that_is_about_to_come(connect: Connect) -> None:
    late = FakeServer()
    with late:
        assert connect(late.target).models()


@pytest.mark.parametrize(
    ("option", "value"),
    [("timeout", 0), ("connect_timeout", -1), ("keepalive", 0), ("max_message_bytes", 1)],
)
def test_options_out_of_range_are_named(connect: Connect, option: str, value: float) -> None:
    with pytest.raises(elman.InvalidRequest, match=option):
        connect("localhost:1", **{option: value})


def test_metadata_goes_with_every_call(connect: Connect, server: FakeServer) -> None:
    client = connect(server.target, metadata=(("x-tenant", "me"),))
    for use in (client.models, lambda: client.stream("letters")):
        server.metadata = []
        use()
        assert ("x-tenant", "me") in server.metadata


def test_closing_twice_is_fine(client: elman.Client) -> None:
    client.stream("letters")
    client.close()
    client.close()
    with pytest.raises(elman.ClientClosed):
        client.models()


def test_closing_does_not_wait_for_ever(client: elman.Client, server: FakeServer) -> None:
    server.hold()
    client.stream("letters").push("a")
    begin = time.monotonic()
    client.close(grace=0.05)
    assert time.monotonic() - begin < 5


def test_closing_may_wait_for_ever(client: elman.Client) -> None:
    stream = client.stream("letters")
    stream.push("a")
    client.close(grace=inf)
    assert [prediction.position for prediction in stream] == [0]


def test_closing_ends_what_is_being_opened(client: elman.Client, server: FakeServer) -> None:
    client.predict("letters", "a")  # the model is known from now on
    server.stream_failures = [UNAVAILABLE] * 1000
    errors: list[elman.ElmanError] = []

    def open_another() -> None:
        with pytest.raises(elman.ClientClosed) as caught:
            client.stream("letters")
        errors.append(caught.value)

    thread = threading.Thread(target=open_another)
    thread.start()
    while len(server.stream_failures) > 997:
        time.sleep(0.01)
    client.close()
    thread.join(10)
    assert errors, "it waits for its timeout, which is longer"


def test_a_block_that_fails_ends_at_once(connect: Connect, server: FakeServer) -> None:
    server.hold()
    with pytest.raises(ZeroDivisionError), connect(server.target) as client:
        client.stream("letters").push("a")
        raise ZeroDivisionError


def test_closing_ends_a_call_under_way(client: elman.Client, server: FakeServer) -> None:
    server.hold()
    raised: list[BaseException] = []

    def predict() -> None:
        try:
            client.predict("letters", "a")
        except elman.ElmanError as error:
            raised.append(error)

    calling = threading.Thread(target=predict)
    calling.start()
    server.predicting.wait()
    client.close(grace=0)
    calling.join()
    assert [type(error) for error in raised] == [elman.ClientClosed]


def test_a_call_obeys_its_timeout(client: elman.Client, server: FakeServer) -> None:
    server.hold()
    with pytest.raises(elman.DeadlineExceeded):
        client.predict("letters", "a", timeout=0.05)


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE])
def test_a_call_that_grpcs_server_does_not_take_in_is_made_again(
    client: elman.Client, server: FakeServer, code: grpc.StatusCode
) -> None:
    server.failures = [(code, "not now", ())] * 3
    assert client.predict("letters", "a")["total"].tolist() == [1]
    assert not server.failures
    assert client.models()


def test_a_call_that_is_not_taken_in_leaves_its_connection_to_others(
    client: elman.Client, server: FakeServer
) -> None:
    with client.stream("letters"):
        server.failures = [(grpc.StatusCode.CANCELLED, "", ())]
        client.predict("letters", "a")
        with client.stream("letters"):
            assert server.calls.count("Stream") == 1


def test_a_frame_that_cannot_be_made_ends_its_sessions_at_once(
    client: elman.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(multiplexer: Multiplexer) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Multiplexer, "take", fail)
    with pytest.raises(elman.ServerError, match="failed to write a frame"):
        client.stream("letters")


def test_a_call_that_is_never_taken_in_ends_with_an_error_of_the_sdk(
    connect: Connect, server: FakeServer
) -> None:
    client = connect(server.target, connect_timeout=0.5)
    server.failures = [(grpc.StatusCode.CANCELLED, "not now", ())] * 1000
    with pytest.raises(elman.Unavailable):
        client.models()


def test_an_rpc_that_grpcs_server_does_not_take_in_is_made_again(
    client: elman.Client, server: FakeServer
) -> None:
    server.stream_failures = [(grpc.StatusCode.CANCELLED, "not now", ())] * 3
    assert client.stream("letters").step("a")["total"] == 1
    assert server.calls.count("Stream") == 4


def test_a_proxys_limit_is_named_and_predict_falls_back_to_a_stream(
    client: elman.Client, server: FakeServer
) -> None:
    details = "Received http2 header with status: 413"
    client.stream("letters").close()  # it is known from now on
    server.failures = [(grpc.StatusCode.UNKNOWN, details, ())]
    assert client.predict("letters", "abc")["total"].tolist() == letter_totals("abc")
    assert server.pushed() == "abc"
    server.failures = [(grpc.StatusCode.UNKNOWN, details, ())] * 100
    with pytest.raises(elman.Unavailable, match=r"413.*client_max_body_size"):
        client.models()
