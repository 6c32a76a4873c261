"""What a session is given once: every test runs over threads and over asyncio."""

from typing import Any

import numpy as np
import pytest

import elman
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import resolve
from elman.v1 import inference_pb2 as pb
from tests.client.conftest import Connect
from tests.client.fake_models import letter_totals
from tests.client.fake_server import FakeServer
from tests.client.peer import MODEL
from tests.client.peer_link import PeerLink, finished
from tests.client.wire.test_codec import Tensor

CONTEXT: dict[str, Any] = {"start": 100, "pair": [20, 3]}
TAKES = "start int64, pair float32[2]"


def test_a_model_tells_what_its_sessions_are_given(client: elman.Client) -> None:
    model = client.model("begun")
    assert model.contexts == (
        elman.Context(name="start", dtype=np.dtype("<i8"), shape=()),
        elman.Context(name="pair", dtype=np.dtype("<f4"), shape=(2,)),
    )
    assert str(model).startswith(f"begun (version 1): text of 29 characters, once {TAKES} -> ")
    assert client.model("letters").contexts == ()


def test_a_stream_begins_from_its_context(client: elman.Client) -> None:
    with client.stream("begun", context=CONTEXT, outputs="total") as stream:
        assert stream.step("a")["total"] == letter_totals("a", 123)[0]
        assert [p["total"] for p in stream.map("bc")] == letter_totals("abc", 123)[1:]


def test_each_stream_has_a_context_of_its_own(client: elman.Client) -> None:
    streams = [
        client.stream("begun", context={"start": start, "pair": np.zeros(2)}, outputs="total")
        for start in range(50)
    ]
    for start, stream in enumerate(streams):
        assert stream.step("z")["total"] == letter_totals("z", start)[0]


def test_a_whole_sequence_is_predicted_from_its_context(
    client: elman.Client, server: FakeServer
) -> None:
    predictions = client.predict("begun", "abc", context=CONTEXT)
    assert predictions["total"].tolist() == letter_totals("abc", 123)
    assert "Stream" not in server.calls


def test_what_is_streamed_instead_of_predicted_keeps_its_context(
    client: elman.Client, server: FakeServer
) -> None:
    server.max_answer = 2
    predictions = client.predict("begun", "abcdef", context=CONTEXT)
    assert predictions["total"].tolist() == letter_totals("abcdef", 123)
    assert server.calls[-2:] == ["Predict", "Stream"]


def test_generation_begins_from_a_context(client: elman.Client) -> None:
    with client.stream("begun", context=CONTEXT) as stream:
        assert "".join(stream.generate("a", length=5, temperature=0)) == "bcdef"


def test_no_context_is_as_good_as_an_empty_one(client: elman.Client) -> None:
    assert client.predict("letters", "ab", context={})["total"].tolist() == letter_totals("ab")
    with client.stream("letters", context={}, outputs="total") as stream:
        assert stream.step("a")["total"] == letter_totals("a")[0]


@pytest.mark.parametrize(
    "pair",
    [(1, 2), np.array([1, 2], np.float64), np.array([1, 2], ">f4"), np.array([1, 2], np.int8)],
    ids=["tuple", "float64", "big endian", "int8"],
)
@pytest.mark.parametrize("start", [7, 7.0, np.int8(7), np.array(7)])
def test_anything_with_the_right_numbers_is_a_context(
    client: elman.Client, start: object, pair: object
) -> None:
    predictions = client.predict("begun", "a", context={"pair": pair, "start": start})
    assert predictions["total"].tolist() == letter_totals("a", 10)


WRONG: list[tuple[Any, str]] = [
    (None, f"context lacks 'start'; 'begun' takes {TAKES}"),
    ({}, f"context lacks 'start'; 'begun' takes {TAKES}"),
    ({"start": 1}, f"context lacks 'pair'; 'begun' takes {TAKES}"),
    ({**CONTEXT, "stop": 1}, f"context names 'stop'; 'begun' takes {TAKES}"),
    ({**CONTEXT, 5: 1}, f"context names 5; 'begun' takes {TAKES}"),
    ([1, 2], f"context is [1, 2]; allowed is a mapping from names to arrays: {TAKES}"),
    (
        {**CONTEXT, "start": 1.5},
        "context 'start' is 1.5; 'begun' takes finite numbers within int64",
    ),
    (
        {**CONTEXT, "start": [1]},
        "context 'start' of 'begun' has shape [], not [1]",
    ),
    (
        {**CONTEXT, "start": "1"},
        "context 'start' of 'begun': numbers of int64, not str of <U1",
    ),
    (
        {**CONTEXT, "start": None},
        "context 'start' of 'begun': numbers of int64, not NoneType of object",
    ),
    (
        {**CONTEXT, "pair": [1, 2, 3]},
        "context 'pair' of 'begun' has shape [2], not [3]",
    ),
    (
        {**CONTEXT, "pair": [[1], [2, 3]]},
        "context 'pair': rows differ in length, not float32 of shape [2]",
    ),
    (
        {**CONTEXT, "pair": Tensor(RuntimeError("requires grad"))},
        "context 'pair' of 'begun': numbers of float32 of shape [2], not Tensor: requires grad",
    ),
    (
        {**CONTEXT, "pair": [1, float("nan")]},
        "context 'pair'[1] is nan; 'begun' takes finite numbers within float32",
    ),
    (
        {**CONTEXT, "pair": [1e39, 1]},
        "context 'pair'[0] is 1e+39; 'begun' takes finite numbers within float32",
    ),
]


@pytest.mark.parametrize(("context", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_context_that_does_not_fit_is_named_before_anything_is_sent(
    client: elman.Client, server: FakeServer, context: Any, message: str
) -> None:
    with pytest.raises(elman.InvalidRequest) as caught:
        client.stream("begun", context=context)
    assert str(caught.value) == message
    with pytest.raises(elman.InvalidRequest) as caught:
        client.predict("begun", "abc", context=context)
    assert str(caught.value) == message
    assert set(server.calls) == {"GetModel"}


def test_a_model_that_takes_none_says_so(client: elman.Client, server: FakeServer) -> None:
    with pytest.raises(elman.InvalidRequest) as caught:
        client.stream("letters", context=CONTEXT)
    assert str(caught.value) == "context names 'start'; 'letters' takes none"
    assert set(server.calls) == {"GetModel"}


def test_a_context_that_fits_into_no_message_is_not_sent(connect: Connect) -> None:
    server = FakeServer()
    model = server.models["begun"]
    model.contexts[1].shape[:] = [1000]
    with server:
        client = connect(server.target, max_message_bytes=4096)
        with pytest.raises(elman.InvalidRequest) as caught:
            client.stream("begun", context={"start": 1, "pair": np.zeros(1000)})
        assert str(caught.value) == (
            "context takes 4042 bytes; with max_message_bytes 4096, allowed are 2048"
        )
        assert server.calls == ["GetModel"]


def options(nbytes: int) -> SessionOptions:
    value = pb.ContextValue(name="pair", raw=bytes(nbytes))
    return SessionOptions(layout=resolve(MODEL, None), contexts=(value,))


def test_frames_hold_no_more_contexts_than_they_may() -> None:
    """But for one that is larger, which goes alone."""
    link = PeerLink(window=1000, max_frame_bytes=400)
    talking = link.opened()
    sizes = [100, 120, 90, 300, 10, 700, 10, 399]
    sessions = [link.multiplexer.open(options(size), lambda: None) for size in sizes]
    finished(talking.push("abcdefgh" * 100))
    frames = []
    while (frame := link.write()) is not None:
        frames.append(frame)
    opens = [[len(opened.contexts[0].raw) for opened in frame.opens] for frame in frames]
    assert [size for part in opens for size in part] == sizes
    assert all(session.opened for session in sessions)
    for frame, part in zip(frames, opens, strict=True):
        assert frame.ByteSize() <= 400 or (len(part) == 1 and not frame.push.sessions)
    assert "".join(frame.push.text for frame in frames) == "abcdefgh" * 100
