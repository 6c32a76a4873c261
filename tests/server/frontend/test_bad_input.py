"""Bad input gets a clear error, ends what it concerns, and touches nothing else."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from elman.v1 import inference_pb2 as pb
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import Conversation, LocalServer, open_, push

Logits = Callable[[str], bytes]

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
ELEMENT = pb.CLOSE_REASON_INVALID_ELEMENT
REQUEST = pb.CLOSE_REASON_INVALID_REQUEST
BYSTANDER = 1000


def number(code: grpc.StatusCode) -> int:
    value: int = code.value[0]
    return value


async def status(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


# What ends the whole RPC.

MODELS = [
    ("nothing", "", "model 'nothing' is unknown; ready are: leaky, letters, numbers"),
    ("letters", "3", "version '3' of model 'letters' is unknown; ready are: 9, 10"),
    ("letters", "x", "version 'x' of model 'letters' is unknown; ready are: 9, 10"),
    ("letters", "٩", "version '٩' of model 'letters' is unknown; ready are: 9, 10"),
]


@pytest.mark.parametrize(("model", "version", "message"), MODELS)
async def test_an_unknown_model_or_version_is_not_found_by_stream(
    server: LocalServer, model: str, version: str, message: str
) -> None:
    stream = server.stream(model, version)
    await stream.send(opens=[1])
    assert await stream.read_all() is NOT_FOUND
    assert await stream.details() == message


@pytest.mark.parametrize(("model", "version", "message"), MODELS)
async def test_an_unknown_model_or_version_is_not_found_by_predict(
    server: LocalServer, model: str, version: str, message: str
) -> None:
    error = await status(
        server.stub.Predict(pb.PredictRequest(model=model, version=version, text="a"))
    )
    assert (error.code(), error.details()) == (NOT_FOUND, message)


@pytest.mark.parametrize(("model", "version", "message"), MODELS)
async def test_an_unknown_model_or_version_is_not_found_by_get_model(
    server: LocalServer, model: str, version: str, message: str
) -> None:
    error = await status(server.stub.GetModel(pb.GetModelRequest(name=model, version=version)))
    assert (error.code(), error.details()) == (NOT_FOUND, message)


@pytest.mark.parametrize("version", ["9" * 5000, "x" * 50_000])
async def test_a_name_of_any_length_is_not_found(server: LocalServer, version: str) -> None:
    error = await status(server.stub.GetModel(pb.GetModelRequest(name="letters", version=version)))
    assert error.code() is NOT_FOUND


async def test_the_first_frame_names_a_model(server: LocalServer) -> None:
    stream = server.stream("")
    await stream.send(opens=[1])
    assert await stream.read_all() is INVALID
    assert await stream.details() == "the first frame names no `model`"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"model": "letters"},
            "model 'letters', version '' in a later frame; only the first frame names them",
        ),
        (
            {"version": "9"},
            "model '', version '9' in a later frame; only the first frame names them",
        ),
        (
            {"push": pb.Push(sessions=[BYSTANDER])},
            "a push has no elements; set `text` or `raw`",
        ),
        ({"push": pb.Push(text="a")}, "a push names no session in `sessions`"),
        (
            {"push": pb.Push(sessions=[BYSTANDER], counts=[1, 1], text="ab")},
            "a push has 2 counts for 1 sessions; allowed are as many, or none",
        ),
    ],
)
async def test_a_malformed_frame_ends_its_rpc(
    server: LocalServer, frame: dict[str, Any], message: str
) -> None:
    stream = server.stream()
    await stream.send(opens=[BYSTANDER])
    await stream.send(**frame)
    assert await stream.read_all() is INVALID
    assert await stream.details() == message
    assert server.admission.sessions == 0
    [closed] = stream.closed[BYSTANDER]
    assert (closed.reason, closed.message) == (REQUEST, message)


async def test_an_rpc_that_fails_does_not_touch_others(server: LocalServer, logits: Logits) -> None:
    good, bad = server.stream(), server.stream()
    await good.send(opens=[1], push=push({1: "ab"}))
    await bad.send(opens=[1], push=pb.Push(sessions=[1]))
    assert await bad.read_all() is INVALID
    await good.send(push=push({1: "c"}), closes=[1])
    await good.ended(1)
    assert good.values(1) == logits("abc")
    good.call.cancel()


# What ends one session.


async def begin(server: LocalServer, model: str = "letters") -> Conversation:
    """With a session that the bad input is not for, in the middle of its work."""
    stream = server.stream(model)
    await stream.send(opens=[1, 2, BYSTANDER])
    if model == "letters":
        await stream.push(BYSTANDER, "by")
    return stream


async def finish(stream: Conversation, logits: Logits) -> None:
    """The bystander's predictions are to the bit those of a session of its own."""
    await stream.push(BYSTANDER, "stander")
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(BYSTANDER) == logits("bystander")
    [closed] = stream.closed[BYSTANDER]
    assert closed.reason == pb.CLOSE_REASON_FINISHED


async def test_a_character_outside_the_vocabulary_ends_its_session(
    server: LocalServer, logits: Logits
) -> None:
    stream = await begin(server)
    await stream.push(1, "abc")
    await stream.send(push=push({1: "de!f", 2: "ghi"}))
    await stream.ended(1)
    [closed] = stream.closed[1]
    assert (closed.code, closed.reason, closed.position) == (number(INVALID), ELEMENT, 3)
    assert closed.message == (
        "element at position 5: character '!' is not in the model's vocabulary: "
        "'abcdefghijklmnopqrstuvwxyz .,'"
    )
    await finish(stream, logits)
    # Of the push that held it nothing was taken; what came before it was answered.
    assert stream.values(1) == logits("abc")
    assert stream.values(2) == logits("ghi")


@pytest.mark.parametrize(
    ("model", "bad", "message"),
    [
        (
            "letters",
            pb.Push(sessions=[1], raw=b"abc"),
            "elements came as 'raw'; the model takes text, so send 'text'",
        ),
        (
            "numbers",
            pb.Push(sessions=[1], text="abc"),
            "elements came as 'text'; the model takes tokens, so send 'raw'",
        ),
        (
            "leaky",
            pb.Push(sessions=[1], text="abc"),
            "elements came as 'text'; the model takes features, so send 'raw'",
        ),
        (
            "numbers",
            pb.Push(sessions=[1], raw=bytes(9)),
            "9 bytes of elements are no multiple of 8, the size of one element (int64, shape [])",
        ),
        (
            "leaky",
            pb.Push(sessions=[1], raw=bytes(13)),
            "13 bytes of elements are no multiple of 12, the size of one element (float32, shape "
            "[3])",
        ),
        (
            "numbers",
            pb.Push(sessions=[1], raw=np.array([0, 6], "<i8").tobytes()),
            "element at position 1: id 6 is out of range; allowed is 0 to 5",
        ),
        (
            "numbers",
            pb.Push(sessions=[1], raw=np.array([-1], "<i8").tobytes()),
            "element at position 0: id -1 is out of range; allowed is 0 to 5",
        ),
        (
            "leaky",
            pb.Push(sessions=[1], raw=np.array([0, 1, np.nan], "<f4").tobytes()),
            "element at position 0: value nan at index 2 of the features; all must be finite",
        ),
        (
            "leaky",
            pb.Push(sessions=[1], raw=np.array([0, -np.inf, 1], "<f4").tobytes()),
            "element at position 0: value -inf at index 1 of the features; all must be finite",
        ),
        (
            "letters",
            pb.Push(sessions=[1], counts=[2], text="abc"),
            "3 elements came; the counts add up to 2",
        ),
        (
            "letters",
            pb.Push(sessions=[1, 1], text="abc"),
            "3 elements came for 2 sessions; without counts, every session gets the same number",
        ),
    ],
)
async def test_elements_that_do_not_fit_end_the_session_that_they_are_for(
    server: LocalServer, model: str, bad: pb.Push, message: str
) -> None:
    stream = await begin(server, model)
    await stream.send(push=bad)
    await stream.ended(1)
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    [closed] = stream.closed[1]
    assert (closed.code, closed.reason, closed.message) == (number(INVALID), ELEMENT, message)
    for session in (2, BYSTANDER):
        assert [c.reason for c in stream.closed[session]] == [pb.CLOSE_REASON_FINISHED]


async def test_elements_beside_wrong_ones_are_taken(server: LocalServer) -> None:
    stream = await begin(server, "leaky")
    good = np.ones(3, "<f4").tobytes()
    await stream.send(push=push({2: good, 1: np.full(3, np.nan, "<f4").tobytes(), BYSTANDER: good}))
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(2) == stream.values(BYSTANDER) == good
    assert stream.values(1) == b""


async def test_what_follows_an_invalid_element_is_passed_over(
    server: LocalServer, logits: Logits
) -> None:
    stream = await begin(server)
    await stream.push(1, "!")
    for _ in range(3):
        await stream.push(1, "abc")
    await stream.send(closes=[1])
    await finish(stream, logits)
    reasons = [closed.reason for closed in stream.closed[1]]
    # Pushes may have come after the session was gone; the client can tell them by their number.
    assert reasons[0] == ELEMENT
    assert set(reasons[1:]) <= {REQUEST}
    assert stream.values(1) == b""


async def test_a_push_to_a_number_that_was_never_opened(
    server: LocalServer, logits: Logits
) -> None:
    stream = await begin(server)
    await stream.push(5000, "abc")
    await stream.ended(5000)
    [closed] = stream.closed[5000]
    assert (closed.code, closed.reason) == (number(INVALID), REQUEST)
    assert closed.message == "push to session 5000, which was never opened on this RPC"
    await finish(stream, logits)


async def test_a_close_of_a_number_that_was_never_opened(
    server: LocalServer, logits: Logits
) -> None:
    stream = await begin(server)
    await stream.send(closes=[5000])
    await stream.ended(5000)
    [closed] = stream.closed[5000]
    assert closed.message == "close of session 5000, which was never opened on this RPC"
    await finish(stream, logits)


async def test_a_push_to_a_session_that_has_ended(server: LocalServer, logits: Logits) -> None:
    stream = await begin(server)
    await stream.send(closes=[1])
    await stream.ended(1)
    await stream.push(1, "abc")
    await stream.until(lambda: len(stream.closed[1]) == 2)
    assert stream.closed[1][1].message == "push to session 1, which has ended"
    await finish(stream, logits)


async def test_a_push_after_a_close_in_the_same_frame(server: LocalServer, logits: Logits) -> None:
    stream = await begin(server)
    await stream.send(push=push({1: "a" * 2000}), closes=[1])
    await stream.push(1, "abc")
    await stream.ended(1)
    assert stream.closed[1][0].reason in (REQUEST, pb.CLOSE_REASON_FINISHED)
    await finish(stream, logits)


@pytest.mark.parametrize("again", [1, 2, 0])
async def test_a_number_is_opened_once(server: LocalServer, again: int, logits: Logits) -> None:
    stream = await begin(server)
    await stream.send(opens=[again])
    await stream.ended(again)
    [closed] = stream.closed[again]
    assert (closed.code, closed.reason) == (number(INVALID), REQUEST)
    assert closed.message == f"session {again} is opened twice; numbers grow, the last was 1000"
    await finish(stream, logits)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            pb.OutputRequest(name="nothing"),
            "output 'nothing' is unknown; the model has next",
        ),
        (
            pb.OutputRequest(name="next", form=pb.FORM_TOP),
            "k is 0 for output 'next'; allowed is 1 to 29",
        ),
        (
            pb.OutputRequest(name="next", form=pb.FORM_TOP, k=30),
            "k is 30 for output 'next'; allowed is 1 to 29",
        ),
        (
            pb.OutputRequest(name="next", k=1),
            "k is 1 for output 'next'; only top takes it",
        ),
        (
            pb.OutputRequest(name="next", form=9),  # type: ignore[arg-type]
            "form 9 is unknown; allowed are 0 to 2",
        ),
    ],
)
async def test_an_output_that_can_not_be_had(
    server: LocalServer, request_: pb.OutputRequest, message: str, logits: Logits
) -> None:
    stream = await begin(server)
    await stream.send(opens=[open_(BYSTANDER + 1, request_)])
    await stream.ended(BYSTANDER + 1)
    [closed] = stream.closed[BYSTANDER + 1]
    assert (closed.code, closed.reason, closed.message) == (number(INVALID), REQUEST, message)
    assert BYSTANDER + 1 not in stream.opened
    await finish(stream, logits)
    error = await status(
        server.stub.Predict(pb.PredictRequest(model="letters", text="a", outputs=[request_]))
    )
    assert (error.code(), error.details()) == (INVALID, message)


async def test_outputs_too_large_for_a_message(serve: Serve) -> None:
    wanted = [pb.OutputRequest(name="next")] * 20
    async with serve(max_message_bytes=4096) as server:
        stream = server.stream()
        await stream.send(opens=[open_(1, *wanted)])
        await stream.ended(1)
        assert stream.closed[1][0].message == (
            "the outputs take 2320 bytes an element; allowed is 2048, half of the message limit"
        )
        stream.call.cancel()


# Predict.


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            pb.PredictRequest(model="letters"),
            "the request has no elements; set `text` or `raw`",
        ),
        (
            pb.PredictRequest(model="letters", raw=b"abc"),
            "elements came as 'raw'; the model takes text, so send 'text'",
        ),
        (
            pb.PredictRequest(model="letters", text="ab!"),
            "element at position 2: character '!' is not in the model's vocabulary: "
            "'abcdefghijklmnopqrstuvwxyz .,'",
        ),
        (
            pb.PredictRequest(model="leaky", raw=np.full(3, np.nan, "<f4").tobytes()),
            "element at position 0: value nan at index 0 of the features; all must be finite",
        ),
        (
            pb.PredictRequest(model="leaky", raw=bytes(5)),
            "5 bytes of elements are no multiple of 12, the size of one element (float32, shape "
            "[3])",
        ),
        (
            pb.PredictRequest(
                model="leaky",
                raw=b"",
                outputs=[pb.OutputRequest(name="y", form=pb.FORM_PROBABILITIES)],
            ),
            "output 'y' holds values, which have no probabilities; ask for it raw",
        ),
    ],
)
async def test_a_prediction_of_bad_input_is_refused(
    server: LocalServer, request_: pb.PredictRequest, message: str
) -> None:
    error = await status(server.stub.Predict(request_))
    assert (error.code(), error.details()) == (INVALID, message)


async def test_an_answer_too_large_for_a_message_says_what_to_do(serve: Serve) -> None:
    async with serve(max_message_bytes=4096) as server:
        error = await status(
            server.stub.Predict(pb.PredictRequest(model="letters", text="a" * 100))
        )
        assert error.code() is EXHAUSTED
        assert error.details() == (
            "the predictions of 100 elements take 12624 bytes; a message takes 4096 "
            "(max_message_bytes): request fewer outputs, or use Stream"
        )


# Too much.


async def test_too_many_sessions_are_refused_with_when_to_try_again(
    serve: Serve, logits: Logits
) -> None:
    async with serve(max_sessions=2, retry_after=0.25) as server:
        stream = server.stream()
        await stream.send(opens=[1, 2, 3], push=push({1: "a", 2: "b", 3: "c"}))
        await stream.ended(3)
        refused = stream.closed[3][0]
        assert (refused.code, refused.reason) == (number(EXHAUSTED), pb.CLOSE_REASON_OVERLOADED)
        assert refused.message == "2 sessions are open; max_sessions is 2"
        assert refused.retry_after_ms == 250
        error = await status(server.stub.Predict(pb.PredictRequest(model="letters", text="a")))
        assert error.code() is EXHAUSTED
        trailers = dict(error.trailing_metadata())
        assert trailers["grpc-retry-pushback-ms"] == "250"
        await stream.send(closes=[1])
        await stream.ended(1)
        await stream.send(opens=[4], push=push({4: "d"}), closes=[2, 4])
        await stream.ended(2, 4)
        assert [stream.values(session) for session in (1, 2, 4)] == [
            logits("a"),
            logits("b"),
            logits("d"),
        ]
        rejected = "elman_sessions_rejected_total"
        assert server.metric(rejected, reason="overloaded", model="letters", version="10") == 2
        stream.call.cancel()


async def test_a_message_beyond_the_limit_is_refused(serve: Serve) -> None:
    async with serve(max_message_bytes=4096) as server:
        stream = server.stream()
        await stream.send(opens=[1], push=push({1: "a" * 5000}))
        assert await stream.read_all() is EXHAUSTED


async def test_bytes_that_are_no_message_end_the_rpc(server: LocalServer) -> None:
    call: Any = server.channel.stream_stream("/elman.v1.Inference/Stream")()
    await call.write(b"\xff\xff\xff")
    assert await call.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, INVALID)


async def test_a_method_that_is_not_there(server: LocalServer) -> None:
    nothing: Any = server.channel.unary_unary("/elman.v1.Inference/Nothing")
    error = await status(nothing(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("before", [[], [pb.StreamRequest(model="letters", opens=[open_(1)])]])
async def test_a_frame_that_is_no_message_ends_its_rpc(
    server: LocalServer, before: list[pb.StreamRequest]
) -> None:
    frames = [*(frame.SerializeToString() for frame in before), b"\xff\xff\xff"]
    async with grpc.aio.insecure_channel(server.target) as channel:
        stream: Any = channel.stream_stream("/elman.v1.Inference/Stream")
        call = stream(iter(frames))
        with pytest.raises(grpc.aio.AioRpcError, match="a frame is no") as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_frame_that_names_too_many_sessions_ends_its_rpc(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[open_(1)])
    await stream.call.write(
        pb.StreamRequest(push=pb.Push(sessions=[1] * 65_537, text="a" * 65_537))
    )
    assert await stream.read_all() is grpc.StatusCode.INVALID_ARGUMENT
    assert await stream.details() == "a frame names sessions 65537 times; allowed is 65536"


@pytest.mark.parametrize("method", ["ListModels", "GetModel", "ListLabels", "Predict"])
async def test_a_request_that_is_no_protobuf_is_refused_and_counted(
    server: LocalServer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: Any = server.channel.unary_unary(f"/elman.v1.Inference/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == f"the request is no elman.v1.{method}Request"
    counted = {
        (sample.labels["grpc_method"], sample.labels["grpc_code"]): sample.value
        for family in server.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "grpc_server_handled_total" and sample.value
    }
    assert counted == {(method, "INVALID_ARGUMENT"): 1}
    assert not caplog.records
