"""What one client does, or fails to do, costs no other client anything."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil

import elman
import elman.aio
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

MIB = 1024 * 1024
_PATIENCE = 60.0
"""Seconds that a busy machine may take for what is a matter of milliseconds."""
_SINGLE = 10
"""Single elements between two looks at the number of steps."""


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Waits for a condition of another process; returns how long it took."""
    start = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - start
        assert elapsed < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


KILLED_CLIENT = """
import elman, sys
client = elman.connect(sys.argv[1])
streams = [client.stream("letters") for _ in range(50)]
for stream in streams:
    stream.push_many("never finished" * 70)
    stream.step("x")
print("streaming", flush=True)
while True:
    for stream in streams:
        stream.step("y")
"""


def test_a_client_killed_in_mid_stream_frees_its_slots(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server:
        command = [sys.executable, "-c", KILLED_CLIENT, server.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "streaming\n"
            assert server.metric("elman_sessions") == 50
            assert server.metric("elman_state_slots") == 50
            client.send_signal(signal.SIGKILL)
        seconds = until(lambda: server.metric("elman_state_slots") == 0, seconds=_PATIENCE)
        print(f"slots of a killed client free after {seconds:.3f} s")
        assert server.metric("elman_sessions") == 0
        assert server.metric("elman_pending_elements") == 0
        assert server.metric("elman_sessions_closed_total", reason="cancelled") == 50
        with elman.connect(server.target) as other:
            assert len(other.predict("letters", "still here")) == 10


def test_a_client_that_never_reads_is_held_back_and_others_are_not(repository: Path) -> None:
    """It pushes for as long as the server takes it: in the end the server stops reading it."""
    path = save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server:
        memory = psutil.Process(server.process.pid)
        stop, sent = threading.Event(), 0

        def pushes() -> Iterator[pb.StreamRequest]:
            nonlocal sent
            opens = [pb.Open(session=number) for number in range(100)]
            yield pb.StreamRequest(model="letters", opens=opens)
            push = pb.Push(sessions=range(100), text="abcd" * 250 * 100)
            while not stop.is_set():
                sent += 1
                yield pb.StreamRequest(push=push)

        with grpc.insecure_channel(server.target) as channel:
            call = InferenceStub(channel).Stream(pushes())
            with elman.connect(server.target) as other:
                expected = other.predict("letters", "x" * 500)["next"]
                before = memory.memory_info().rss
                # gRPC takes messages until its buffers are full; then the generator is not asked.
                counts = [-1, -2]
                while counts[-1] != counts[-2]:
                    with other.stream("letters") as stream:
                        for _ in range(500):
                            stream.step("x")
                    counts.append(sent)
                assert np.array_equal(other.predict("letters", "x" * 500)["next"], expected)
                grown = memory.memory_info().rss - before
            stop.set()
            call.cancel()
        until(lambda: server.metric("elman_sessions") == 0, seconds=_PATIENCE)
        assert server.metric("grpc_server_handled_total", grpc_code="CANCELLED") == 1
        assert [line for line in server.log if line.get("level") == "error"] == []
        print(f"memory grew by {grown / MIB:.1f} MiB beside a client that never reads")
        assert grown < 64 * MIB
        assert expected.shape == (500, len(Oracle(path).spec.input.vocabulary))


async def test_a_million_elements_delay_single_ones_by_a_few_steps(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx", hidden=128)
    with ServerProcess(str(repository)) as server:
        async with (
            elman.aio.connect(server.target) as client,
            grpc.aio.insecure_channel(server.target) as channel,
        ):
            call = InferenceStub(channel).Stream()
            await call.write(
                pb.StreamRequest(
                    model="letters",
                    opens=[pb.Open(session=0, outputs=[_top_1()])],
                    push=pb.Push(sessions=[0], text="a" * 1_000_000),
                    closes=[0],
                )
            )
            reader = asyncio.create_task(_count(call))
            await _until_pending(server)
            steps, single = [], 0
            async with client.stream("letters") as stream:
                while not reader.done() and single < 30 * _SINGLE:
                    await stream.step("x")
                    single += 1
                    if single % _SINGLE == 0:
                        steps.append(server.metric("elman_steps_total"))
            assert await reader == 1_000_000
            total = server.metric("elman_steps_total")
    # Beside its own step, an element waits for the one that runs and one that was next in turn.
    # How many more there are until its answer is sent, read and followed by the next element is the
    # machine's; to wait for the million would be all of them. Counted, as seconds are the
    # machine's too.
    between = np.diff(steps) / _SINGLE
    print(f"{single} single elements within {total:.0f} steps, {np.median(between):.1f} each")
    assert single >= 5 * _SINGLE
    assert np.median(between) < total / 50


def _top_1() -> pb.OutputRequest:
    return pb.OutputRequest(name="next", form=pb.FORM_TOP, k=1)


async def _count(call: "grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]") -> int:
    predictions = 0
    async for response in call:
        predictions += sum(sum(part.counts) or len(part.sessions) for part in response.predictions)
        if response.closed:
            await call.done_writing()
    return predictions


async def _until_pending(server: ServerProcess) -> None:
    def pending() -> bool:
        return server.metric("elman_pending_elements") > 100_000

    await asyncio.to_thread(until, pending, _PATIENCE)


def test_ten_thousand_sessions_are_open_and_served_at_once(repository: Path) -> None:
    path = save_lstm(repository / "letters/1/model.onnx", hidden=128, layers=2)
    expected = [outputs["next"] for outputs in Oracle(path).run("hello")]
    with ServerProcess(str(repository)) as server:
        memory = psutil.Process(server.process.pid)
        asyncio.run(_open_and_step(server, 1_000, expected))
        before = memory.memory_info().rss
        grown = asyncio.run(_open_and_step(server, 10_000, expected)) - before
        state_bytes = Oracle(path).spec.state_bytes
    per_session = grown / 10_000
    print(f"resident memory: {per_session:.0f} bytes a session, state {state_bytes} of them")
    assert per_session < state_bytes + 4096


async def _open_and_step(
    server: ServerProcess,
    sessions: int,
    expected: list["np.ndarray[tuple[int], np.dtype[np.float32]]"],
) -> int:
    """Returns the server's resident memory while all are open."""
    async with elman.aio.connect(server.target, timeout=60) as client:

        async def opened() -> elman.aio.Stream:
            return await client.stream("letters")

        streams = await asyncio.gather(*(opened() for _ in range(sessions)))
        for position, element in enumerate("hello"):
            predictions = await asyncio.gather(*(stream.step(element) for stream in streams))
            for prediction in predictions:
                assert prediction["next"].tobytes() == expected[position].tobytes()
        assert await asyncio.to_thread(server.metric, "elman_sessions") == sessions
        resident = psutil.Process(server.process.pid).memory_info().rss
        await asyncio.gather(*(stream.close() for stream in streams))
    return resident
