"""Sessions get the contexts that they were given at their open, and nobody else's."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.durable.store.file import FileStore
from elman_server.durable.tickets.keys import new_key
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.naming import key
from elman_server.model.repository import ModelSource
from elman_server.serving.loading.loaded import LoadedModel
from tests.oracle import Oracle
from tests.server.frontend.conftest import make_config
from tests.server.frontend.harness import SECONDS, LocalServer, push
from tests.server.frontend.test_back_pressure import Peer
from tests.server.runner.oddmodels import picky_steps
from tests.stepmodels import (
    ALPHABET,
    STYLES,
    Shape,
    caption,
    lstm,
    one_row,
    save,
    save_conditioned,
    tilted,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
Contexts = Mapping[str, Any]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedModel]:
    """`letters` takes none; `caption`, `tilted` and `picky` take some; `single` takes one row a
    step."""
    root = tmp_path_factory.mktemp("models")
    save(*lstm(Shape()), root / "letters/1/model.onnx")
    save(*one_row(lstm(Shape(seed=1))), root / "single/1/model.onnx")
    save(*picky_steps(), root / "picky/1/model.onnx")
    save_conditioned(caption(), root / "caption/1/model.onnx")
    save_conditioned(tilted(width=3), root / "tilted/1/model.onnx")
    return [
        LoadedModel.load(ModelSource(name=path.parts[-3], version="1", path=path), make_config())
        for path in sorted(root.glob("*/*/model.onnx"))
    ]


def serve(loaded: list[LoadedModel], **config: Any) -> LocalServer:
    return LocalServer(loaded, make_config(**config))


def oracle(loaded: list[LoadedModel], name: str) -> Oracle:
    return Oracle(next(model.source.path for model in loaded if model.source.name == name))


def contexts(number: int) -> dict[str, Any]:
    """Those of `caption`, others for each number."""
    rng = np.random.default_rng(number)
    return {
        "image": rng.normal(size=12).astype("<f4"),
        "style": np.array(number % STYLES, "<i8"),
        "gain": rng.normal(size=8).astype("<f4"),
    }


def packed(given: Contexts) -> list[pb.ContextValue]:
    return [pb.ContextValue(name=name, raw=array.tobytes()) for name, array in given.items()]


def opening(session: int, given: Contexts) -> pb.Open:
    return pb.Open(session=session, contexts=packed(given))


async def test_a_model_tells_its_contexts(loaded: list[LoadedModel]) -> None:
    async with serve(loaded) as server:
        found = await server.stub.GetModel(pb.GetModelRequest(name="caption"))
        assert list(found.model.contexts) == [
            pb.Context(name="image", data_type=pb.DATA_TYPE_FLOAT32, shape=[12]),
            pb.Context(name="style", data_type=pb.DATA_TYPE_INT64),
            pb.Context(name="gain", data_type=pb.DATA_TYPE_FLOAT32, shape=[8]),
        ]
        # h and c of 16, and what each step takes.
        assert found.model.state_bytes == 4 * (16 + 16 + 8)
        letters = await server.stub.GetModel(pb.GetModelRequest(name="letters"))
        assert not letters.model.contexts


def answers(oracle: Oracle, text: str, given: Contexts) -> bytes:
    return b"".join(row["next"].tobytes() for row in oracle.run(text, given))


async def test_sessions_with_contexts_of_their_own_share_steps_and_leave_nothing_in_their_slots(
    loaded: list[LoadedModel],
) -> None:
    rng = random.Random(200)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 30))) for _ in range(200)]
    async with serve(loaded, max_batch_size=64) as server:
        stream = server.stream("caption")
        for wave in range(0, 200, 50):
            numbers = list(range(wave, wave + 50))
            await stream.send(opens=[opening(number, contexts(number)) for number in numbers])
            pushed = dict.fromkeys(numbers, 0)
            while pushed:
                chosen = rng.sample(sorted(pushed), rng.randint(1, len(pushed)))
                parts = {}
                for number in chosen:
                    count = rng.randint(1, 8)
                    parts[number] = texts[number][pushed[number] : pushed[number] + count]
                    pushed[number] += count
                over = [number for number in chosen if pushed[number] >= len(texts[number])]
                await stream.send(push=push(parts), closes=over)
                for number in over:
                    del pushed[number]
            # The slots go on to the next wave.
            await stream.ended(*numbers)
        rows = server.metric("elman_step_batch_size_sum", model="caption")
        assert rows > 5 * server.metric("elman_steps_total", model="caption")
        alone = oracle(loaded, "caption")
        assert [stream.values(number) for number in range(200)] == [
            answers(alone, text, contexts(number)) for number, text in enumerate(texts)
        ]
        stream.call.cancel()


async def test_a_session_is_opened_pushed_to_and_closed_in_one_frame(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded) as server:
        stream = server.stream("caption")
        numbers = range(1, 30)
        await stream.send(
            opens=[opening(number, contexts(number)) for number in numbers],
            push=push(dict.fromkeys(numbers, "abc")),
            closes=numbers,
        )
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        alone = oracle(loaded, "caption")
        for number in numbers:
            assert stream.values(number) == answers(alone, "abc", contexts(number))


async def test_a_whole_sequence_is_predicted_with_its_contexts(loaded: list[LoadedModel]) -> None:
    async with serve(loaded) as server:
        alone = oracle(loaded, "caption")
        requests = [
            pb.PredictRequest(model="caption", text="abcdef", contexts=packed(contexts(number)))
            for number in range(20)
        ]
        found = await asyncio.gather(*(server.stub.Predict(request) for request in requests))
        assert [response.outputs[0].values for response in found] == [
            answers(alone, "abcdef", contexts(number)) for number in range(20)
        ]


async def test_what_the_model_keeps_of_contexts_counts_as_its_state(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded) as server:
        # h, and the tilt that each step takes; the start is not kept.
        kept = server.metric("elman_state_bytes", model="tilted")
        assert kept % (2 * 12) == 0
        assert kept / (2 * 12) == server.metric("elman_state_bytes", model="letters") / (2 * 16 * 4)


# What does not fit.


def without(name: str) -> list[pb.ContextValue]:
    return [value for value in packed(contexts(1)) if value.name != name]


def changed(name: str, raw: bytes) -> list[pb.ContextValue]:
    return [*without(name), pb.ContextValue(name=name, raw=raw)]


NAN = np.array([*range(11), np.nan], "<f4").tobytes()
WRONG = [
    (without("image"), "context 'image' is missing; the model takes float32 of shape [12]"),
    ([], "context 'image' is missing; the model takes float32 of shape [12]"),
    (
        [*packed(contexts(1)), pb.ContextValue(name="picture")],
        "context 'picture' is unknown; the model takes image, style, gain",
    ),
    (
        [*packed(contexts(1)), *packed(contexts(1))],
        "context 'image' came twice; it is given once",
    ),
    (
        changed("image", bytes(44)),
        "context 'image' came as 44 bytes; allowed are 48 (float32 of shape [12])",
    ),
    (
        changed("style", bytes(4)),
        "context 'style' came as 4 bytes; allowed are 8 (int64 of shape [])",
    ),
    (changed("image", NAN), "value nan at index 11 of context 'image'; all must be finite"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message for _, message in WRONG])
async def test_contexts_that_do_not_fit_refuse_their_session_and_touch_no_other(
    loaded: list[LoadedModel], values: list[pb.ContextValue], message: str
) -> None:
    async with serve(loaded) as server:
        stream = server.stream("caption")
        await stream.send(
            opens=[
                opening(1, contexts(1)),
                pb.Open(session=2, contexts=values),
                opening(3, contexts(3)),
            ],
            push=push({1: "ab", 2: "ab", 3: "ab"}),
        )
        await stream.ended(2)
        assert stream.closed[2][0] == pb.Closed(
            session=2,
            code=INVALID.value[0],
            reason=pb.CLOSE_REASON_INVALID_REQUEST,
            message=message,
        )
        assert 2 not in stream.opened
        await stream.send(opens=[opening(4, contexts(4))], push=push({1: "c", 3: "c", 4: "abc"}))
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        alone = oracle(loaded, "caption")
        for number in (1, 3, 4):
            assert stream.values(number) == answers(alone, "abc", contexts(number))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Predict(
                pb.PredictRequest(model="caption", text="abc", contexts=values)
            )
        assert (caught.value.code(), caught.value.details()) == (INVALID, message)


async def test_a_model_without_contexts_refuses_them(loaded: list[LoadedModel]) -> None:
    async with serve(loaded) as server:
        stream = server.stream("letters")
        await stream.send(opens=[opening(1, contexts(1)), 2], push=push({2: "a"}), closes=[2])
        await stream.ended(1, 2)
        assert stream.closed[1][0].message == "context 'image' is unknown; the model takes none"
        assert stream.closed[2][0].reason == pb.CLOSE_REASON_FINISHED
        stream.call.cancel()


async def test_contexts_that_the_model_fails_on_end_their_session_alone(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded) as server:
        stream = server.stream("caption")
        given = {number: contexts(number) for number in range(1, 20)}
        for number in (5, 6, 17):
            given[number]["style"] = np.array(STYLES, "<i8")
        await stream.send(
            opens=[opening(number, values) for number, values in given.items()],
            push=push(dict.fromkeys(given, "abc")),
        )
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        alone = oracle(loaded, "caption")
        for number, values in given.items():
            [closed] = stream.closed[number]
            if number in (5, 6, 17):
                assert closed == pb.Closed(
                    session=number,
                    code=grpc.StatusCode.INTERNAL.value[0],
                    reason=pb.CLOSE_REASON_STEP_FAILED,
                    message="the model failed to make the session's state from its contexts",
                )
            else:
                assert closed.reason == pb.CLOSE_REASON_FINISHED
                assert stream.values(number) == answers(alone, "abc", values)
        closed_total = "elman_sessions_closed_total"
        assert server.metric(closed_total, reason="step_failed", model="caption") == 3


async def test_contexts_that_the_steps_fail_on_end_their_session_alone(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded) as server:
        stream = server.stream("picky")
        numbers = range(1, 40)

        def tilt(number: int) -> int:
            return 7 if number in (3, 4, 30) else number % 2

        await stream.send(
            opens=[opening(n, {"tilt": np.array(tilt(n), "<i8")}) for n in numbers],
            push=push({n: np.full((2, 3), n, "<f4").tobytes() for n in numbers}),
        )
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        for number in numbers:
            [closed] = stream.closed[number]
            if tilt(number) == 7:
                assert (closed.reason, closed.position) == (pb.CLOSE_REASON_STEP_FAILED, 0)
                assert stream.values(number) == b""
            else:
                first = number + 10 * tilt(number)
                expected = np.repeat(np.array([first, 1.5 * first], "<f4"), 3)
                assert closed.reason == pb.CLOSE_REASON_FINISHED
                assert stream.values(number) == expected.tobytes()


# What it may take.


async def test_contexts_of_sessions_that_have_not_begun_are_bounded(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded, max_message_bytes=8192) as server:
        engine = server.engine("caption")
        wake, engine._step_loop.wake = engine._step_loop.wake, lambda: None  # nobody begins
        first = pb.StreamRequest(model="caption", opens=[opening(0, contexts(0))])
        opens = [
            pb.StreamRequest(opens=[opening(n, contexts(n)) for n in range(start, start + 10)])
            for start in range(1, 1001, 10)
        ]
        peer = Peer(server, [first, *opens], model="caption")
        rpc = peer.start()
        await peer.settled()
        # A quarter of a message, 88 bytes each, and the frame that passed it.
        assert peer.read < 4
        engine._step_loop.wake = wake
        wake()
        await server.until(lambda: peer.read == len(opens))
        async with asyncio.timeout(SECONDS):
            await rpc
        assert server.metric("elman_sessions_opened_total", model="caption") == 1001


async def test_a_broken_rpc_frees_contexts_that_nobody_began_with(
    loaded: list[LoadedModel],
) -> None:
    async with serve(loaded) as server:
        engine = server.engine("caption")
        engine._step_loop.wake = lambda: None  # nobody begins
        stream = server.stream("caption")
        await stream.send(opens=[opening(number, contexts(number)) for number in range(10)])
        await stream.until(lambda: len(stream.opened) == 10)
        outboxes = {session.outbox for session in engine._scheduler.sessions}
        assert [outbox.contexts_nbytes for outbox in outboxes] == [10 * 88]
        stream.call.cancel()
        await server.until(lambda: engine.sessions == 0)
        assert [outbox.contexts_nbytes for outbox in outboxes] == [0]


# Models that take one row only.


async def test_many_sessions_of_a_model_that_takes_one_row(
    loaded: list[LoadedModel],
) -> None:
    rng = random.Random(1)
    texts = {n: "".join(rng.choices(ALPHABET, k=rng.randint(1, 90))) for n in range(50)}
    async with serve(loaded) as server:
        stream = server.stream("single")
        await stream.send(opens=list(texts))
        for start in range(0, 90, 30):
            parts = {n: text[start : start + 30] for n, text in texts.items() if text[start:]}
            await stream.send(push=push(parts))
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        alone = oracle(loaded, "single")
        for number, text in texts.items():
            assert stream.values(number) == answers(alone, text, {})
        # One row each, but chunks of several elements.
        steps = server.metric("elman_steps_total", model="single")
        assert server.metric("elman_step_batch_size_sum", model="single") == steps
        assert steps < sum(map(len, texts.values())) / 3


async def test_a_named_session_that_there_is_needs_no_contexts(
    loaded: list[LoadedModel], tmp_path: Path
) -> None:
    store = {"state_store": f"file:{tmp_path}/store", "ticket_key": (new_key(),)}
    alone = oracle(loaded, "caption")
    async with serve(loaded, **store) as server:
        stream = server.stream("caption")
        await stream.send(opens=[pb.Open(session=1, name="bob")])
        await stream.ended(1)
        assert stream.closed[1][0].reason == pb.CLOSE_REASON_INVALID_REQUEST
        assert "context 'image' is missing" in stream.closed[1][0].message
        opened = pb.Open(session=2, name="bob", contexts=packed(contexts(2)))
        await stream.send(opens=[opened], push=push({2: "abc"}), closes=[2])
        await stream.ended(2)
        await stream.send(opens=[pb.Open(session=3, name="bob")], push=push({3: "de"}))
        await stream.answered(3, 2)
        assert stream.values(2) + stream.values(3) == answers(alone, "abcde", contexts(2))
        stream.call.cancel()


async def test_contexts_of_named_sessions_count_while_these_are_waited_for(
    loaded: list[LoadedModel], tmp_path: Path
) -> None:
    store = {"state_store": f"file:{tmp_path}/store", "ticket_key": (new_key(),)}
    others = FileStore(tmp_path / "store")
    for name in ("a", "b"):
        await others.claim(key("caption", Caller(), name), owner="x", lease_seconds=60)
    async with serve(loaded, max_context_bytes=150, **store) as server:
        stream = server.stream("caption")
        opens = [
            pb.Open(session=number, name=name, contexts=packed(contexts(number)))
            for number, name in enumerate("ab")
        ]
        await stream.send(opens=opens)
        await stream.ended(1)
        assert stream.closed[1][0].reason == pb.CLOSE_REASON_OVERLOADED
        assert "max_context_bytes" in stream.closed[1][0].message
        assert server.engine("caption").context_nbytes == 88
        stream.call.cancel()
        await server.until(lambda: not server.admission.sessions)
        assert server.engine("caption").context_nbytes == 0
    await others.close()
