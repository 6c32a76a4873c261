"""Predict is a Stream in one call."""

from collections.abc import Callable

import numpy as np
import pytest

from elman.v1 import inference_pb2 as pb
from tests.oracle import Oracle
from tests.server.frontend.harness import LocalServer, open_

Logits = Callable[[str], bytes]


@pytest.mark.parametrize("text", ["", "a", "the quick brown fox", "x" * 3000])
async def test_every_element_is_answered(server: LocalServer, text: str, logits: Logits) -> None:
    answer = await server.stub.Predict(pb.PredictRequest(model="letters", text=text))
    assert (answer.version, answer.count) == ("10", len(text))
    [column] = answer.outputs
    assert (column.values, column.indices) == (logits(text), b"")


@pytest.mark.parametrize(
    "wanted",
    [
        pb.OutputRequest(name="next"),
        pb.OutputRequest(name="next", form=pb.FORM_PROBABILITIES),
        pb.OutputRequest(name="next", form=pb.FORM_TOP, k=5),
        pb.OutputRequest(name="next", form=pb.FORM_TOP, k=29),
    ],
)
async def test_it_equals_stream_to_the_bit(server: LocalServer, wanted: pb.OutputRequest) -> None:
    text = "one and the same, " * 20
    answer = await server.stub.Predict(
        pb.PredictRequest(model="letters", text=text, outputs=[wanted])
    )
    stream = server.stream()
    await stream.send(opens=[open_(1, wanted)])
    for start in range(0, len(text), 7):
        await stream.push(1, text[start : start + 7])
    await stream.half_close()
    await stream.read_all()
    [column] = answer.outputs
    assert column.values == stream.values(1)
    assert column.indices == b"".join(row[0].indices for row in stream.predictions[1])


async def test_outputs_come_in_the_order_asked_for(server: LocalServer, logits: Logits) -> None:
    wanted = [
        pb.OutputRequest(name="next", form=pb.FORM_TOP, k=1),
        pb.OutputRequest(name="next"),
    ]
    answer = await server.stub.Predict(
        pb.PredictRequest(model="letters", text="abc", outputs=wanted)
    )
    assert [len(column.indices) for column in answer.outputs] == [12, 0]
    assert answer.outputs[1].values == logits("abc")


async def test_an_empty_sequence_of_features_is_answered_by_nothing(server: LocalServer) -> None:
    answer = await server.stub.Predict(pb.PredictRequest(model="leaky", raw=b""))
    assert answer.count == 0
    assert [column.values for column in answer.outputs] == [b""]


async def test_a_named_version_answers(server: LocalServer) -> None:
    answer = await server.stub.Predict(pb.PredictRequest(model="letters", version="9", text="ab"))
    path = server.catalog.get("letters", "9").source.path
    assert answer.version == "9"
    expected = b"".join(row["next"].tobytes() for row in Oracle(path).run("ab"))
    assert answer.outputs[0].values == expected


async def test_sequences_at_the_same_time_do_not_mix(server: LocalServer, logits: Logits) -> None:
    texts = ["abc" * n for n in range(1, 30)]
    calls = [server.stub.Predict(pb.PredictRequest(model="letters", text=text)) for text in texts]
    for call, text in zip(calls, texts, strict=True):
        assert (await call).outputs[0].values == logits(text)


async def test_a_cancelled_prediction_frees_its_session(server: LocalServer) -> None:
    raw = np.zeros(3 * 100_000, "<f4").tobytes()
    call = server.stub.Predict(pb.PredictRequest(model="leaky", raw=raw))
    await server.until(lambda: server.admission.sessions == 1)
    call.cancel()
    await server.until(lambda: server.admission.sessions == 0)
    assert server.engine("leaky").pending == 0
