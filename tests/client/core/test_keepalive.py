"""How often connections are checked, and what other ends allow."""

import logging
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import grpc
import pytest

import elman
import elman.aio
from elman._core import keepalive as _keepalive
from elman._core.keepalive import Keepalive, allowed
from elman.v1 import inference_pb2_grpc as pb_grpc
from tests.client.conftest import Connect
from tests.client.fake_server import FakeServer


@pytest.mark.parametrize("seconds", [5.0, 7, 30.0, inf])
def test_what_servers_allow_is_taken_as_it_is(seconds: float) -> None:
    assert allowed(seconds) == seconds


@pytest.mark.parametrize("seconds", [0.001, 1, 4.9])
def test_what_is_less_is_raised_with_a_warning(connect: Connect, seconds: float) -> None:
    with FakeServer() as server, pytest.warns(UserWarning, match=rf"keepalive is {seconds:g}; .*5"):
        client = connect(server.target, keepalive=seconds)
    real = getattr(client, "_client", client)
    assert real._keepalive.seconds == 5.0


@pytest.mark.parametrize("seconds", [0, -1.0, "5", None])
def test_what_is_no_duration_is_refused(seconds: Any) -> None:
    for connect in (elman.connect, elman.aio.connect):
        with pytest.raises(elman.InvalidRequest, match="keepalive is"):
            connect("127.0.0.1:1", keepalive=seconds)


def test_other_errors_change_nothing() -> None:
    keepalive = Keepalive(5.0)
    for error in (elman.Unavailable("connection reset"), elman.ServerError("pings")):
        keepalive.adapt(error)
    assert keepalive.seconds == 5.0


def test_a_server_that_forbids_pings_gets_fewer_and_the_stream_goes_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC's own default: not more often than every 300 s."""
    monkeypatch.setattr(_keepalive, "LEAST_SECONDS", 0.05)
    fake = FakeServer()
    server = grpc.server(ThreadPoolExecutor(16))
    pb_grpc.add_InferenceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    fake.hold()
    try:
        with caplog.at_level(logging.WARNING, "elman"):
            client = connect(f"127.0.0.1:{port}", keepalive=0.05, timeout=60)
            stream = client.stream("letters")
            with pytest.raises(elman.SessionLost, match=r"(?i)too.many.pings"):
                stream.step("a")  # the fake server has no tickets
            real = getattr(client, "_client", client)
            assert real._keepalive.seconds == 300.0
        assert "does not allow a keepalive of 0.05 s" in caplog.text
        fake.release()
        assert client.stream("letters").step("a").position == 0
    finally:
        fake.release()
        server.stop(0).wait()
