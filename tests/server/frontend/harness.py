"""A whole server on this process's loop, and a client that speaks the raw wire to it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import grpc
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from elman_server.config import ServerConfig
from elman_server.durable.named.opening import open_state_store
from elman_server.durable.tickets.keys import new_key
from elman_server.frontend.transport import Transport
from elman_server.process.clock import Clock
from elman_server.server import assemble
from elman_server.serving.loading.children import Children
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.telemetry.metrics import Metrics

SECONDS = 30
"""How long a test waits for what must come."""


class LocalServer:
    """Entered when it serves. On exit it checks that nothing was left behind."""

    def __init__(
        self,
        models: Iterable[LoadedModel],
        config: ServerConfig,
        transport: Transport | None = None,
    ) -> None:
        """`transport` is grpcio's by default."""
        self.config = replace(config, ticket_key=config.ticket_key or (new_key(),))
        self.assembly = assemble(
            self.config,
            Clock(),
            open_state_store(config),
            metrics=Metrics(),
            children=Children(),
            transport=transport,
        )
        self.catalog = self.assembly.catalog
        self.metrics = self.assembly.metrics
        self.admission = self.assembly.admission
        self.lease_keeper = self.assembly.lease_keeper
        self.servicer = self.assembly.servicer
        self.endpoint = self.assembly.endpoint
        self._models = list(models)

    async def __aenter__(self) -> Self:
        if self.lease_keeper is not None:
            self.lease_keeper.start()
        self.target = f"127.0.0.1:{await self.endpoint.start()}"
        for loaded in self._models:
            await self.assembly.manager.serve(loaded)
        self.channel = grpc.aio.insecure_channel(
            self.target,
            options=[
                ("grpc.max_receive_message_length", self.config.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.stub = pb_grpc.InferenceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.endpoint.stop(SECONDS)
        if self.lease_keeper is not None:
            # Named sessions end when their last snapshots are taken.
            await self.until(lambda: not self.admission.sessions)
            await self.lease_keeper.stop()
        left = [(self.admission.sessions, model.engine.pending) for model in self.catalog]
        for model in self.catalog:
            await model.engine.stop()
        # What the last steps told the loop is heard first.
        await asyncio.sleep(0)
        assert left == [(0, 0)] * len(left)
        assert [model.engine.slots for model in self.catalog] == [0] * len(left)

    def engine(self, name: str = "letters") -> Any:
        return self.catalog.get(name).engine

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for what the server does by itself."""
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.001)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(
                generate_latest(self.metrics.registry).decode()
            )
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stream(self, model: str = "letters", version: str = "") -> "Conversation":
        return Conversation(self, model, version)


@dataclass(frozen=True, slots=True)
class Column:
    """One requested output of one prediction."""

    values: bytes
    indices: bytes = b""


@dataclass
class Conversation:
    """One Stream RPC. What comes is checked for order as it comes."""

    server: LocalServer
    model: str
    version: str
    opened: dict[int, pb.Opened] = field(default_factory=dict)
    predictions: dict[int, list[list[Column]]] = field(default_factory=dict)
    tickets: dict[int, list[pb.Ticket]] = field(default_factory=dict)
    closed: dict[int, list[pb.Closed]] = field(default_factory=dict)
    frames: list[pb.StreamResponse] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.call: Any = self.server.stub.Stream(timeout=2 * SECONDS)

    async def send(
        self,
        *,
        opens: Sequence[int | pb.Open] = (),
        push: pb.Push | None = None,
        closes: Sequence[int] = (),
        tickets: Sequence[int] = (),
        **first: str,
    ) -> None:
        """The first frame names the model."""
        if self.model and not first:
            first = {"model": self.model, "version": self.version}
            self.model = ""
        await self.call.write(
            pb.StreamRequest(
                opens=[open_(o) if isinstance(o, int) else o for o in opens],
                push=push,
                closes=closes,
                tickets=tickets,
                **first,
            )
        )

    async def push(self, session: int, elements: str | bytes) -> None:
        await self.send(push=push({session: elements}))

    async def half_close(self) -> None:
        await self.call.done_writing()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Reads until that holds."""
        async with asyncio.timeout(SECONDS):
            while not holds():
                response = await self.call.read()
                assert response is not grpc.aio.EOF, "the RPC ended"
                self._take(response)

    async def answered(self, session: int, count: int) -> None:
        await self.until(lambda: len(self.predictions.get(session, [])) >= count)

    async def ended(self, *sessions: int) -> None:
        await self.until(lambda: all(session in self.closed for session in sessions))

    async def read_all(self) -> grpc.StatusCode:
        """To the end of the RPC. Returns its status."""
        async with asyncio.timeout(SECONDS):
            try:
                while (response := await self.call.read()) is not grpc.aio.EOF:
                    self._take(response)
            except grpc.aio.AioRpcError:
                pass
            code: grpc.StatusCode = await self.call.code()
            return code

    async def details(self) -> str:
        details: str = await self.call.details()
        return details

    def values(self, session: int, column: int = 0) -> bytes:
        """One output of all predictions so far."""
        return b"".join(row[column].values for row in self.predictions.get(session, []))

    def _take(self, response: pb.StreamResponse) -> None:
        assert response.ByteSize() <= self.server.config.max_message_bytes
        self.frames.append(response)
        for opened in response.opened:
            assert opened.session not in self.opened
            assert opened.session not in self.closed
            self.opened[opened.session] = opened
            self.predictions[opened.session] = []
        for predictions in response.predictions:
            counts = list(predictions.counts) or [1] * len(predictions.sessions)
            start, total = 0, sum(counts)
            for session, count, first in zip(
                predictions.sessions, counts, predictions.first_positions, strict=True
            ):
                assert session not in self.closed
                rows = self.predictions[session]
                assert first == self.opened[session].position + len(rows)
                for row in range(start, start + count):
                    rows.append([_row(values, row, total) for values in predictions.outputs])
                start += count
        for ticket in response.tickets:
            session = ticket.session
            assert session not in self.closed
            answered = self.opened[session].position + len(self.predictions[session])
            assert ticket.position <= answered
            self.tickets.setdefault(session, []).append(ticket)
        for closed in response.closed:
            self.closed.setdefault(closed.session, []).append(closed)


def _row(values: pb.Values, row: int, rows: int) -> Column:
    def part(data: bytes) -> bytes:
        size, rest = divmod(len(data), rows)
        assert rest == 0
        return data[row * size : (row + 1) * size]

    return Column(part(values.values), part(values.indices))


def open_(session: int, *outputs: pb.OutputRequest) -> pb.Open:
    return pb.Open(session=session, outputs=outputs)


def push(elements: dict[int, str] | dict[int, bytes] | dict[int, str | bytes]) -> pb.Push:
    """What each session gets, packed. `raw` elements take 12 bytes each."""
    parts = list(elements.values())
    if all(isinstance(part, str) for part in parts):
        texts = [part for part in parts if isinstance(part, str)]
        return pb.Push(sessions=elements, counts=map(len, texts), text="".join(texts))
    raws = [part for part in parts if isinstance(part, bytes)]
    return pb.Push(sessions=elements, counts=[len(raw) // 12 for raw in raws], raw=b"".join(raws))
