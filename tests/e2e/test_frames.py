"""Whatever frames clients send, and however they leave, a session is answered as if it were alone.

Clients write frames with any mix of opens, pushes (sessions that come up several times, or get
nothing) and closes, on several RPCs of one server; some leave in the middle. Nothing stays behind.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import ALPHABET, save_lstm

MODEL, OUTPUT = "lstm", "next"
FRAMES = 60
Call = grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lstm(tmp_path_factory.mktemp("frames") / MODEL / "1" / "model.onnx", hidden=64)


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(str(path.parent.parent.parent)) as server:
        yield server


@dataclass
class Told:
    """A session, as its client knows it."""

    pushed: list[str] = field(default_factory=list)
    answers: list[NDArray[np.float32]] = field(default_factory=list)
    closing: bool = False
    closed: bool = False


class Client:
    """One RPC. What it does is settled by its seed, and its server's timing."""

    def __init__(self, call: Call, seed: int) -> None:
        self._call = call
        self._random = random.Random(seed)
        self.sessions: dict[int, Told] = {}

    async def run(self, *, leaves: bool) -> None:
        await self._call.write(pb.StreamRequest(model=MODEL))
        reader = asyncio.create_task(self._read())
        for _ in range(FRAMES):
            await self._call.write(self._frame())
            await asyncio.sleep(self._random.choice([0, 0, 1e-3, 5e-3]))
        if leaves:
            self._call.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            return
        await self._call.done_writing()
        await reader
        assert all(session.closed for session in self.sessions.values())
        assert all(len(each.answers) == len(each.pushed) for each in self.sessions.values())

    def _frame(self) -> pb.StreamRequest:
        frame, pick = pb.StreamRequest(), self._random
        for _ in range(pick.choice([0, 0, 1, 5, 60])):
            number = len(self.sessions) + 1
            frame.opens.add(session=number)
            self.sessions[number] = Told()
        able = [number for number, session in self.sessions.items() if not session.closing]
        if able and pick.random() < 0.9:
            numbers = pick.choices(able, k=pick.choice([1, 2, 7, 8, 30, 200]))
            counts = [1] * len(numbers)
            if pick.random() < 0.5:
                counts = pick.choices([0, 1, 1, 2, 3, 9, 40], k=len(numbers))
                frame.push.counts.extend(counts)
            frame.push.sessions.extend(numbers)
            for number, count in zip(numbers, counts, strict=True):
                letters = pick.choices(ALPHABET, k=count)
                self.sessions[number].pushed += letters
                frame.push.text += "".join(letters)
        for number in able:
            if pick.random() < 0.02:
                frame.closes.append(number)
                self.sessions[number].closing = True
        return frame

    async def _read(self) -> None:
        while isinstance(response := await self._call.read(), pb.StreamResponse):
            for part in response.predictions:
                counts = part.counts or [1] * len(part.sessions)
                values = np.frombuffer(part.outputs[0].values, "<f4").reshape(sum(counts), -1)
                starts = np.cumsum([0, *counts])
                for number, count, first, start in zip(
                    part.sessions, counts, part.first_positions, starts.tolist(), strict=False
                ):
                    answers = self.sessions[number].answers
                    assert first == len(answers)
                    answers.extend(values[start : start + count])
            for closed in response.closed:
                assert not self.sessions[closed.session].closed
                self.sessions[closed.session].closed = True


async def test_sessions_are_answered_as_if_alone(server: ServerProcess, path: Path) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        clients = [Client(InferenceStub(channel).Stream(), seed) for seed in range(8)]
        await asyncio.gather(
            *(client.run(leaves=number % 4 == 3) for number, client in enumerate(clients))
        )
    oracle = Oracle(path)
    compared = 0
    for client in clients:
        for session in client.sessions.values():
            expected = oracle.run(session.pushed[: len(session.answers)])
            compared += len(expected)
            for found, outputs in zip(session.answers, expected, strict=True):
                assert found.tobytes() == outputs[OUTPUT].tobytes()
    assert compared > 10_000


async def test_nothing_of_them_stays_behind(server: ServerProcess) -> None:
    gauges = ("elman_sessions", "elman_pending_elements", "elman_state_slots")
    async with asyncio.timeout(10):
        while any([server.metric(gauge, model=MODEL) for gauge in gauges]):
            await asyncio.sleep(0.05)
