"""Sessions on a Stream RPC get their predictions, each as if it were alone."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from elman_server.model.selection import softmax
from tests.oracle import Oracle
from tests.server.frontend.harness import LocalServer, open_, push
from tests.stepmodels import ALPHABET

Logits = Callable[[str], bytes]


def random_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(ALPHABET, k=length))


async def test_one_element_pushed_is_one_prediction_back(
    server: LocalServer, logits: Logits
) -> None:
    stream = server.stream()
    await stream.send(opens=[0])
    for position, letter in enumerate("good"):
        await stream.send(push=pb.Push(sessions=[0], text=letter))
        await stream.answered(0, position + 1)
    assert stream.values(0) == logits("good")
    stream.call.cancel()


async def test_everything_fits_into_one_frame(server: LocalServer, logits: Logits) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2], push=push({1: "ab", 2: "cde"}), closes=[1, 2])
    await stream.ended(1, 2)
    assert (stream.values(1), stream.values(2)) == (logits("ab"), logits("cde"))
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_sessions_in_any_mix_equal_their_solo_runs(
    server: LocalServer, logits: Logits
) -> None:
    rng = random.Random(3)
    stream = server.stream()
    texts = {session: random_text(rng, rng.randrange(200)) for session in range(60)}
    rest = dict(texts)
    await stream.send(opens=list(texts))
    while rest:
        chosen = rng.sample(sorted(rest), rng.randint(1, len(rest)))
        parts = {session: rest[session][: rng.randint(0, 40)] for session in chosen}
        for session, part in parts.items():
            rest[session] = rest[session][len(part) :]
        done = [session for session in chosen if not rest[session]]
        await stream.send(push=push(parts), closes=done)
        for session in done:
            del rest[session]
    await stream.ended(*texts)
    assert {session: stream.values(session) for session in texts} == {
        session: logits(text) for session, text in texts.items()
    }
    assert {stream.closed[session][0].position for session in texts} == {
        len(text) for text in texts.values()
    }
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_without_counts_every_session_gets_the_same_number(
    server: LocalServer, logits: Logits
) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2, 3], push=pb.Push(sessions=[1, 2, 3], text="abcdef"))
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert [stream.values(session) for session in (1, 2, 3)] == [
        logits("ab"),
        logits("cd"),
        logits("ef"),
    ]


async def test_a_session_may_stand_in_a_push_twice(server: LocalServer, logits: Logits) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=pb.Push(sessions=[1, 1], counts=[1, 2], text="abc"))
    await stream.half_close()
    await stream.read_all()
    assert stream.values(1) == logits("abc")


async def test_a_half_close_finishes_what_was_pushed(server: LocalServer, logits: Logits) -> None:
    stream = server.stream()
    await stream.send(opens=[1, 2, 3], push=push({1: "a" * 500, 2: "b"}))
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(1) == logits("a" * 500)
    assert stream.values(2) == logits("b")
    for session, position in ((1, 500), (2, 1), (3, 0)):
        [closed] = stream.closed[session]
        assert closed == pb.Closed(
            session=session, reason=pb.CLOSE_REASON_FINISHED, position=position
        )


async def test_an_rpc_that_says_nothing_is_fine(server: LocalServer) -> None:
    stream = server.stream()
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_an_rpc_may_come_without_sessions(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send()
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_opened_tells_an_id_and_the_window(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[0, 7, 2**32 - 1])
    await stream.until(lambda: len(stream.opened) == 3)
    assert {opened.window for opened in stream.opened.values()} == {server.config.window}
    assert len({opened.id for opened in stream.opened.values()}) == 3
    stream.call.cancel()


async def test_a_session_may_be_opened_closed_and_another_opened(
    server: LocalServer, logits: Logits
) -> None:
    stream = server.stream()
    for session in range(20):
        await stream.send(opens=[session], push=push({session: "abc"}), closes=[session])
        await stream.ended(session)
        assert stream.values(session) == logits("abc")
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_a_second_close_changes_nothing(server: LocalServer, logits: Logits) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "abc"}), closes=[1, 1])
    await stream.ended(1)
    await stream.send(closes=[1])
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert [closed.reason for closed in stream.closed[1]] == [pb.CLOSE_REASON_FINISHED]
    assert stream.values(1) == logits("abc")


async def test_forms_equal_what_numpy_makes_of_the_raw_output(
    server: LocalServer, oracle: Oracle
) -> None:
    table = np.stack([row["next"] for row in oracle.run("hello")])
    chance = softmax(table)
    best = np.argsort(-table, axis=1, kind="stable")[:, :3]
    stream = server.stream()
    raw = pb.OutputRequest(name="next")
    probabilities = pb.OutputRequest(name="next", form=pb.FORM_PROBABILITIES)
    top = pb.OutputRequest(name="next", form=pb.FORM_TOP, k=3)
    await stream.send(
        opens=[open_(1, raw, probabilities, top), open_(2, top), open_(3)],
        push=push({1: "hello", 2: "hello", 3: "hello"}),
    )
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(1, 0) == stream.values(3) == table.tobytes()
    assert stream.values(1, 1) == chance.tobytes()
    best_chance = np.take_along_axis(chance, best, axis=1).tobytes()
    assert stream.values(1, 2) == stream.values(2) == best_chance
    indices = best.astype("<u4").tobytes()
    assert b"".join(row[2].indices for row in stream.predictions[1]) == indices
    assert b"".join(row[0].indices for row in stream.predictions[2]) == indices


async def test_the_softmax_is_the_textbooks(server: LocalServer, oracle: Oracle) -> None:
    [row] = oracle.run("a")
    powers = np.exp(row["next"].astype(np.float64))
    stream = server.stream()
    wanted = pb.OutputRequest(name="next", form=pb.FORM_PROBABILITIES)
    await stream.send(opens=[open_(1, wanted)], push=push({1: "a"}), closes=[1])
    await stream.ended(1)
    found = np.frombuffer(stream.values(1), "<f4")
    assert found.tolist() == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)
    stream.call.cancel()


@pytest.mark.parametrize(("version", "answers"), [("", "10"), ("10", "10"), ("9", "9")])
async def test_the_newest_version_answers_unless_one_is_named(
    server: LocalServer, version: str, answers: str
) -> None:
    path = server.catalog.get("letters", answers).source.path
    stream = server.stream(version=version)
    await stream.send(opens=[1], push=push({1: "abc"}), closes=[1])
    await stream.ended(1)
    expected = b"".join(row["next"].tobytes() for row in Oracle(path).run("abc"))
    assert stream.values(1) == expected
    stream.call.cancel()


async def test_features_are_answered(server: LocalServer) -> None:
    table = np.random.default_rng(0).normal(size=(50, 3)).astype("<f4")
    stream = server.stream("leaky")
    await stream.send(opens=[1], push=push({1: table.tobytes()}), closes=[1])
    await stream.ended(1)
    path = server.catalog.get("leaky").source.path
    expected = b"".join(row["y"].tobytes() for row in Oracle(path).run(table))
    assert stream.values(1) == expected
    stream.call.cancel()


async def test_tokens_are_answered(server: LocalServer) -> None:
    numbers = [0, 5, 3, 3, 1]
    stream = server.stream("numbers")
    raw = np.array(numbers, "<i8").tobytes()
    await stream.send(opens=[1], push=pb.Push(sessions=[1], raw=raw), closes=[1])
    await stream.ended(1)
    path = server.catalog.get("numbers").source.path
    expected = b"".join(row["next"].tobytes() for row in Oracle(path).run(numbers))
    assert stream.values(1) == expected
    stream.call.cancel()


async def test_two_rpcs_use_the_same_numbers_for_different_sessions(
    server: LocalServer, logits: Logits
) -> None:
    streams = [server.stream(), server.stream()]
    for stream, text in zip(streams, ["abc", "xyz"], strict=True):
        await stream.send(opens=[1], push=push({1: text}))
    for stream, text in zip(streams, ["abc", "xyz"], strict=True):
        await stream.answered(1, 3)
        assert stream.values(1) == logits(text)
    assert streams[0].opened[1].id != streams[1].opened[1].id
    for stream in streams:
        stream.call.cancel()


async def test_a_cancelled_rpc_frees_what_its_sessions_held(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=range(10), push=push(dict.fromkeys(range(10), "abc")))
    await stream.answered(9, 3)
    assert server.admission.sessions == server.engine().slots == 10
    stream.call.cancel()
    await server.until(lambda: server.admission.sessions == 0)
    await server.until(lambda: server.engine().slots == 0)
    closed = "elman_sessions_closed_total"
    assert server.metric(closed, reason="cancelled") == server.metric(closed) == 10


async def test_an_rpc_that_is_cancelled_with_much_to_do_drops_it(server: LocalServer) -> None:
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "a" * 100_000}))
    await stream.answered(1, 1)
    stream.call.cancel()
    await server.until(lambda: server.admission.sessions == 0)
    assert server.engine().pending == 0


async def test_an_rpc_past_its_deadline_frees_what_it_held(server: LocalServer) -> None:
    call = server.stub.Stream(timeout=0.2)
    await call.write(pb.StreamRequest(model="letters", opens=[pb.Open(session=1)]))
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.until(lambda: server.admission.sessions == 0)


async def test_a_client_that_goes_away_is_no_bug(server: LocalServer) -> None:
    with capture_logs() as lines:
        for _ in range(10):
            stream = server.stream()
            await stream.send(opens=range(20), push=push(dict.fromkeys(range(20), "a" * 500)))
            await stream.answered(0, 1)
            stream.call.cancel()
        late = server.stub.Predict(pb.PredictRequest(model="letters", text="a" * 20_000))
        await server.until(lambda: server.admission.sessions > 0)
        late.cancel()
        await server.until(lambda: server.admission.sessions == 0)
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []


@pytest.mark.parametrize("elements", [1, 20_000], ids=["idle", "busy"])
async def test_a_connection_that_breaks_is_no_bug(server: LocalServer, elements: int) -> None:
    async with Wire(server.target) as wire:
        channel = grpc.aio.insecure_channel(
            wire.target, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        with capture_logs() as lines:
            call = pb_grpc.InferenceStub(channel).Stream()
            await call.write(
                pb.StreamRequest(
                    model="letters",
                    opens=[pb.Open(session=1)],
                    push=pb.Push(sessions=[1], text="a" * elements),
                )
            )
            await call.read()
            wire.cut()
            await server.until(lambda: server.admission.sessions == 0)
            handled = "grpc_server_handled_total"
            await server.until(lambda: server.metric(handled, grpc_method="Stream") == 1)
        await channel.close()
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []
    closed = "elman_sessions_closed_total"
    assert server.metric(closed, reason="cancelled") == server.metric(closed) == 1


class Wire:
    """A relay to a server that can be cut."""

    def __init__(self, target: str) -> None:
        self._host, port = target.split(":")
        self._port = int(port)
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, 0)
        self.target = f"{self._host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
