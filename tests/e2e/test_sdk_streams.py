"""What the SDK promises beside exactness, against real servers, over threads and asyncio."""

import asyncio
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

import elman
import elman.aio
from elman.v1 import inference_pb2 as pb
from tests.serverprocess import ServerProcess
from tests.stepmodels import leaky, save, save_lstm

PRIME = "ROMEO:\n"
TWENTY = elman.Top("next", 20)


def test_generation_is_the_same_by_threads_and_by_asyncio(demo_server: ServerProcess) -> None:
    def by_threads() -> str:
        with (
            elman.connect(demo_server.target) as client,
            client.stream("shakespeare", outputs=TWENTY) as stream,
        ):
            return "".join(stream.generate(PRIME, length=60, temperature=0.8, seed=7))

    async def by_asyncio() -> str:
        async with (
            elman.aio.connect(demo_server.target) as client,
            client.stream("shakespeare", outputs=TWENTY) as stream,
        ):
            symbols = stream.generate(PRIME, length=60, temperature=0.8, seed=7)
            return "".join([symbol async for symbol in symbols])

    text = by_threads()
    assert len(text) == 60
    assert by_threads() == asyncio.run(by_asyncio()) == text


def test_greedy_generation_follows_the_most_probable_character(
    demo_server: ServerProcess,
) -> None:
    with elman.connect(demo_server.target) as client:
        with client.stream("shakespeare", outputs=elman.Top("next", 1)) as stream:
            text = "".join(stream.generate(PRIME, length=40, temperature=0))
        predictions = client.predict("shakespeare", PRIME + text)
    for position, symbol in enumerate(text, len(PRIME) - 1):
        assert predictions[position].top()[0].label == symbol


def test_the_forms_of_an_output_agree(demo_server: ServerProcess) -> None:
    with elman.connect(demo_server.target) as client:
        raw = client.predict("shakespeare", PRIME)
        probabilities = client.predict("shakespeare", PRIME, outputs=elman.Probabilities("next"))
        top = client.predict("shakespeare", PRIME, outputs=elman.Top("next", 5))
    assert probabilities["next"].sum(axis=-1) == pytest.approx(1, abs=1e-5)
    for position in range(len(PRIME)):
        labels = [alternative.label for alternative in raw[position].top(5)]
        assert [alternative.label for alternative in probabilities[position].top(5)] == labels
        assert [alternative.label for alternative in top[position].top(5)] == labels
    assert np.array_equal(
        np.take_along_axis(probabilities["next"], top["next"].indices.astype(int), -1),
        top["next"].values,
    )


def test_a_sequence_beyond_a_message_is_predicted_as_one_within(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    text = "the quick brown fox. " * 1000
    with ServerProcess(str(repository)) as server:
        with elman.connect(server.target) as client:
            whole = client.predict("letters", text)["next"]
        with elman.connect(server.target, max_message_bytes=1 << 20) as client:
            streamed = client.predict("letters", text)["next"]
        assert server.metric("elman_sessions_closed_total", reason="finished") == 2
    assert whole.tobytes() == streamed.tobytes()


def test_what_the_server_finds_too_large_is_streamed(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    text = "small messages. " * 100
    with (
        ServerProcess(str(repository), "--max-message-bytes", "65536") as server,
        elman.connect(server.target) as client,
    ):
        assert client.predict("letters", text)["next"].shape == (len(text), 29)


def test_threads_with_streams_of_their_own_get_their_own_predictions(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    texts = [chr(ord("a") + i % 26) + "bcdefghij"[i % 9 :] * 3 for i in range(64)]
    equal = [False] * len(texts)
    with ServerProcess(str(repository)) as server, elman.connect(server.target) as client:
        expected = [client.predict("letters", text)["next"] for text in texts]

        def run(i: int) -> None:
            with client.stream("letters") as stream:
                found = [stream.step(letter)["next"] for letter in texts[i]]
            equal[i] = np.array(found).tobytes() == expected[i].tobytes()

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(equal)


def test_a_full_server_says_when_to_come_back(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    arguments = ("--max-sessions", "1", "--retry-after", "2.5")
    with (
        ServerProcess(str(repository), *arguments) as server,
        elman.connect(server.target) as client,
    ):
        with client.stream("letters") as stream:
            stream.step("a")
            with pytest.raises(elman.ServerOverloaded) as refused:
                client.stream("letters")
            assert refused.value.retry_after == 2.5
            with pytest.raises(elman.ServerOverloaded) as refused:
                client.predict("letters", "a")
            assert refused.value.retry_after == 2.5
            stream.step("b")
            stream.close()
            assert next(stream, None) is None
        with client.stream("letters") as stream:
            stream.step("a")


def test_a_server_that_stays_away_loses_its_sessions_and_the_client_goes_on(
    repository: Path,
) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as first:
        port = str(first.event("serving")["grpc_port"])
        client = elman.connect(first.target, resume_timeout=0.5)
        streams = [client.stream("letters") for _ in range(3)]
        for stream in streams:
            stream.step("a")
        ticket = streams[0].ticket()
        first.kill()
        for stream in streams:
            with pytest.raises(elman.SessionLost) as lost:
                stream.step("b")
            assert lost.value.position == 1
            assert lost.value.ticket == (ticket if stream is streams[0] else None)
    again = ServerProcess(str(repository), "--port", port)
    with client, again, client.stream("letters") as stream:
        stream.step("a")


def test_a_wrong_element_past_the_sdks_own_check_ends_its_session_only(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(*leaky(), repository / "leaky/1/model.onnx")
    with ServerProcess(str(repository)) as server, elman.connect(server.target) as client:
        wrong, right = client.stream("leaky"), client.stream("leaky")
        wrong.step([1])
        monkeypatch.setattr(wrong._codec, "one", lambda _: np.float32("nan").tobytes())
        with pytest.raises(elman.InvalidElement, match="nan"):
            wrong.step([2])
        monkeypatch.undo()
        with pytest.raises(elman.InvalidElement):
            wrong.step([3])
        assert right.step([1])["y"].tolist() == [1]


def test_plain_grpc_speaks_the_same_wire(demo_server: ServerProcess) -> None:
    """One session by hand, as the protocol's text tells, beside the SDK's own."""
    with elman.connect(demo_server.target) as client:
        expected = client.predict("sentiment", "good", outputs="positive")["positive"]
    frames = [
        pb.StreamRequest(
            model="sentiment",
            opens=[pb.Open(session=1, outputs=[pb.OutputRequest(name="positive")])],
            push=pb.Push(sessions=[1], text="good"),
            closes=[1],
        )
    ]
    with grpc.insecure_channel(demo_server.target) as channel:
        call = channel.stream_stream(
            "/elman.v1.Inference/Stream",
            request_serializer=pb.StreamRequest.SerializeToString,
            response_deserializer=pb.StreamResponse.FromString,
        )
        responses = list(call(iter(frames)))
    values = b"".join(
        predictions.outputs[0].values
        for response in responses
        for predictions in response.predictions
    )
    assert values == expected.tobytes()


async def test_ten_thousand_streams_open_and_step_at_once_on_one_client(
    repository: Path,
) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server:
        async with elman.aio.connect(server.target, timeout=60) as client:

            async def session() -> elman.aio.Stream:
                return await client.stream("letters", outputs=elman.Top("next", 1))

            streams = await asyncio.gather(*(session() for _ in range(10_000)))
            predictions = await asyncio.gather(*(stream.step("a") for stream in streams))
            assert len({prediction.top()[0] for prediction in predictions}) == 1
            assert server.metric("elman_sessions") == 10_000
