"""What a caller can make the server keep is bounded, and costs nobody else anything."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from math import inf

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.engine.admission import Waiting
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.withheld import Withheld
from elman_server.frontend.turns import Turns
from elman_server.frontend.wire.stream import StreamLimits, StreamRpc
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import SECONDS, Conversation, LocalServer, open_, push

Logits = Callable[[str], bytes]


class Peer:
    """The other end of a Stream RPC without gRPC: frames are read when the server reads, and a
    write is over when the test says so."""

    def __init__(
        self, server: LocalServer, frames: Iterable[pb.StreamRequest], model: str = "letters"
    ) -> None:
        config = server.config
        self._rpc = StreamRpc(
            model=server.catalog.get(model),
            admission=server.admission,
            caller=Caller(),
            lease_keeper=None,
            turns=Turns(),
            withheld=Withheld(max_nbytes=inf),
            limits=StreamLimits(window=config.window, max_message_bytes=config.max_message_bytes),
        )
        self._frames = list(frames)
        self.read = 0
        """Frames that the server took."""
        self.written: list[pb.StreamResponse] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.stops_reading_after = -1

    def start(self) -> "asyncio.Task[None]":
        first, rest = self._frames[0], self._frames[1:]
        return asyncio.create_task(self._rpc.run(first, self._requests(rest), self._write))

    async def _requests(self, frames: list[pb.StreamRequest]) -> AsyncIterator[pb.StreamRequest]:
        for frame in frames:
            await asyncio.sleep(0)
            self.read += 1
            yield frame

    async def _write(self, response: bytes) -> None:
        await self.reads.wait()
        self.written.append(pb.StreamResponse.FromString(response))
        if len(self.written) == self.stops_reading_after:
            self.reads.clear()

    async def settled(self) -> None:
        """Until the server has taken all that it takes."""
        unchanged, last = 0, -1
        while unchanged < 200:
            await asyncio.sleep(0)
            unchanged = unchanged + 1 if self.read == last else 0
            last = self.read


def predictions(responses: Iterable[pb.StreamResponse]) -> int:
    return sum(
        sum(part.counts) or len(part.sessions)
        for response in responses
        for part in response.predictions
    )


def frames(count: int, frame: pb.StreamRequest) -> list[pb.StreamRequest]:
    return [pb.StreamRequest(model="letters", opens=[open_(1)])] + [frame] * count


def pushes(count: int, text: str) -> list[pb.StreamRequest]:
    return frames(count, pb.StreamRequest(push=push({1: text})))


async def test_a_caller_that_does_not_read_is_not_read_either(serve: Serve) -> None:
    async with serve(max_message_bytes=4096) as server:
        peer = Peer(server, pushes(1000, "abcd"))
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        # Its outbox, a quarter of a message, and the steps that ran before that was known.
        assert peer.read < 100
        assert server.engine().pending < 100
        peer.reads.set()
        async with asyncio.timeout(SECONDS):
            await rpc
        assert predictions(peer.written) == 4000


async def test_reading_goes_on_when_the_last_step_filled_the_outbox(serve: Serve) -> None:
    async with serve(max_message_bytes=4096) as server:
        peer = Peer(server, pushes(30, "a" * 40))
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        stopped = peer.read
        peer.reads.set()
        async with asyncio.timeout(SECONDS):
            await rpc
        assert stopped < peer.read == 30
        assert predictions(peer.written) == 1200


@pytest.mark.parametrize(
    "frame",
    [
        pb.StreamRequest(push=pb.Push(sessions=range(100, 200), text="a" * 100)),
        pb.StreamRequest(closes=range(100, 200)),
        pb.StreamRequest(opens=[pb.Open(session=1)] * 100),
    ],
    ids=["pushes", "closes", "opens"],
)
async def test_refusals_that_nobody_reads_are_bounded(
    serve: Serve, frame: pb.StreamRequest
) -> None:
    async with serve(max_message_bytes=16_384) as server:
        peer = Peer(server, frames(500, frame))
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        # A hundred refusals each, of some eighty bytes each.
        taken = peer.read
        rpc.cancel()
        await asyncio.wait([rpc])
        assert taken < 50


async def test_sessions_that_come_and_go_unread_are_bounded(serve: Serve) -> None:
    async with serve(max_message_bytes=16_384) as server:
        comings = [
            pb.StreamRequest(
                opens=[open_(s) for s in range(start, start + 100)],
                closes=range(start, start + 100),
            )
            for start in range(2, 50_000, 100)
        ]
        peer = Peer(server, frames(0, pb.StreamRequest()) + comings)
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        taken = peer.read
        rpc.cancel()
        await asyncio.wait([rpc])
        assert taken < 50


async def test_a_refusal_does_not_overtake_what_came_before_it(serve: Serve) -> None:
    async with serve(max_message_bytes=16_384) as server:
        peer = Peer(
            server,
            [
                pb.StreamRequest(model="letters", opens=[open_(1), open_(2)]),
                pb.StreamRequest(push=push({2: "a" * 64})),
                pb.StreamRequest(push=push({1: "a"}), closes=[1]),
                pb.StreamRequest(opens=[open_(1)]),
            ],
        )
        # The second session's predictions take two frames. While the first of them is written, the
        # other session ends and its number is opened again.
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        peer.stops_reading_after = 1
        peer.reads.set()
        await peer.settled()
        assert (peer.read, len(peer.written)) == (3, 1)
        peer.reads.set()
        async with asyncio.timeout(SECONDS):
            await rpc
        told = [
            what
            for frame in peer.written
            for what in [
                *("answered" for part in frame.predictions if 1 in part.sessions),
                *(closed.reason for closed in frame.closed if closed.session == 1),
            ]
        ]
        assert told == ["answered", pb.CLOSE_REASON_FINISHED, pb.CLOSE_REASON_INVALID_REQUEST]


async def test_a_caller_that_never_reads_costs_others_nothing(serve: Serve, logits: Logits) -> None:
    async with serve(max_message_bytes=65_536) as server:
        lazy, eager = server.stream(), server.stream()
        await lazy.send(opens=[1])

        async def flood() -> None:
            while True:
                await lazy.push(1, "a" * 1000)

        flooding = asyncio.create_task(flood())
        await eager.send(opens=[1])
        text = "not at all slower, " * 20
        for position, letter in enumerate(text):
            await eager.push(1, letter)
            await eager.answered(1, position + 1)
        assert eager.values(1) == logits(text)
        assert server.engine().pending < server.config.window + 2000
        flooding.cancel()
        await asyncio.wait([flooding])
        lazy.call.cancel()
        eager.call.cancel()


async def test_a_caller_that_reads_late_gets_everything(serve: Serve, logits: Logits) -> None:
    async with serve(max_message_bytes=65_536) as server:
        stream = server.stream()
        text = "everything, in order. " * 300
        await stream.send(opens=[1], push=push({1: text}))
        await stream.half_close()
        await server.until(lambda: server.engine().pending < len(text))
        assert await stream.read_all() is grpc.StatusCode.OK
        assert stream.values(1) == logits(text)


async def test_a_session_beyond_its_window_is_not_read(serve: Serve) -> None:
    async with serve(window=10) as server:
        engine = server.engine()
        peer = Peer(server, pushes(100, "a" * 11))
        most = 0
        rpc = peer.start()
        while not rpc.done():
            most = max(most, engine.pending)
            await asyncio.sleep(0)
        await rpc
        # One frame may pass the window; the next is read when the session is back within it.
        assert most <= 21
        assert predictions(peer.written) == 1100


async def test_within_the_window_reading_goes_on(serve: Serve) -> None:
    async with serve(window=1100) as server:
        peer = Peer(server, pushes(100, "a" * 11))
        engine = server.engine()
        engine._step_loop.wake = lambda: None  # no step runs
        rpc = peer.start()
        await peer.settled()
        assert peer.read == 100
        assert engine.pending == 1100
        rpc.cancel()
        await asyncio.wait([rpc])


async def test_a_crowded_server_reads_from_those_who_wait_for_nothing(serve: Serve) -> None:
    async with serve(max_pending_elements=20) as server:
        engine = server.engine()
        engine._step_loop.wake = lambda: None  # no step runs
        busy, idle = Peer(server, pushes(100, "a" * 10)), Peer(server, pushes(100, "a" * 10))
        rpcs = [busy.start()]
        await busy.settled()
        assert busy.read == 2
        rpcs.append(idle.start())
        await idle.settled()
        assert idle.read == 1
        for rpc in rpcs:
            rpc.cancel()
        await asyncio.wait(rpcs)


SELECTIONS: dict[str, list[pb.OutputRequest]] = {
    "raw": [],
    "all of the top": [pb.OutputRequest(name="next", form=pb.FORM_TOP, k=29)],
    "often": [pb.OutputRequest(name="next")] * 15,
    "small": [pb.OutputRequest(name="next", form=pb.FORM_TOP, k=1)],
}


@pytest.mark.parametrize("outputs", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("sessions", [1, 50])
async def test_no_frame_passes_the_message_limit(
    serve: Serve, outputs: list[pb.OutputRequest], sessions: int
) -> None:
    async with serve(max_message_bytes=4096) as server:
        stream = server.stream()
        for session in range(sessions):
            await stream.send(opens=[open_(session, *outputs)])
        for _ in range(4):
            for session in range(sessions):
                await stream.push(session, "a" * 50)
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        assert {len(rows) for rows in stream.predictions.values()} == {200}


async def many_opens(stream: Conversation) -> None:
    await stream.send(opens=range(500))
    await stream.until(lambda: len(stream.opened) == 500)


async def many_closes(stream: Conversation) -> None:
    await many_opens(stream)
    await stream.send(closes=range(500))
    await stream.ended(*range(500))


async def many_refusals(stream: Conversation) -> None:
    await stream.send(push=pb.Push(sessions=range(500), text="a" * 500))
    await stream.ended(*range(500))


async def many_invalid_elements(stream: Conversation) -> None:
    await many_opens(stream)
    await stream.send(push=pb.Push(sessions=range(500), text="!" * 500))
    await stream.ended(*range(500))


async def one_long_name(stream: Conversation) -> None:
    await stream.send(opens=[open_(1, pb.OutputRequest(name="x" * 3900))])
    await stream.ended(1)


@pytest.mark.parametrize(
    "talk", [many_opens, many_closes, many_refusals, many_invalid_elements, one_long_name]
)
async def test_no_frame_without_predictions_passes_it_either(
    serve: Serve, talk: Callable[[Conversation], Awaitable[None]]
) -> None:
    async with serve(max_message_bytes=4096) as server:
        stream = server.stream()
        await talk(stream)
        stream.call.cancel()


async def test_what_waits_for_its_caller_to_read_crowds_nobody_out(serve: Serve) -> None:
    async with serve(max_message_bytes=4096, max_pending_elements=50) as server:
        peer = Peer(server, pushes(3, "a" * 400))
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        assert server.engine().pending > 50
        assert not server.admission.crowded
        response = await server.stub.Predict(pb.PredictRequest(model="letters", text="a" * 20))
        assert response.count == 20
        peer.reads.set()
        async with asyncio.timeout(SECONDS):
            await rpc
        assert predictions(peer.written) == 1200


async def test_nor_does_it_if_a_ticket_is_due_first(serve: Serve) -> None:
    async with serve(max_message_bytes=4096, max_pending_elements=50) as server:
        opens = [pb.Open(session=1, ticket_every_elements=100)]
        peer = Peer(
            server,
            [
                pb.StreamRequest(opens=opens),
                *[pb.StreamRequest(push=push({1: "a" * 400})) for _ in range(3)],
            ],
        )
        peer.reads.clear()
        rpc = peer.start()
        await peer.settled()
        assert server.engine().pending > 50
        assert not server.admission.crowded
        peer.reads.set()
        async with asyncio.timeout(SECONDS):
            await rpc
        assert predictions(peer.written) == 1200


async def test_a_crowded_server_takes_small_pushes_and_lets_large_ones_wait(serve: Serve) -> None:
    waiting = 100
    async with serve(max_pending_elements=50, window=4) as server:
        server.admission.watch(Waiting(elements=lambda: waiting))
        small, large = Peer(server, pushes(3, "abcd")), Peer(server, pushes(3, "abcde"))
        rpcs = [small.start(), large.start()]
        async with asyncio.timeout(SECONDS):
            await rpcs[0]
        await large.settled()
        assert predictions(small.written) == 12
        assert predictions(large.written) == 0
        with pytest.raises(grpc.aio.AioRpcError, match="max_pending_elements is 50") as refused:
            await server.stub.Predict(pb.PredictRequest(model="letters", text="a"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting = 0
        server.admission.relieve()
        async with asyncio.timeout(SECONDS):
            await rpcs[1]
        assert predictions(large.written) == 15
