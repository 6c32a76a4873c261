"""A transport without sockets: calls are made in the process."""

import asyncio
from collections.abc import Sequence

from elman_server.frontend.caller import Caller
from elman_server.frontend.status import Metadata, Status
from elman_server.frontend.transport import Gone, Method


class MemoryCall:
    """Both ends of a call. The server's end is `transport.Call`; the client's is `send`,
    `half_close`, `cancel`, `receive` and `ended`."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.metadata: Metadata | None = None
        self.cuts: list[str] = []
        """Why the server closed the connection."""
        self.reads = asyncio.Event()
        """Whether the client reads."""
        self.reads.set()
        self._requests = asyncio.Queue[bytes | None]()
        self._responses = asyncio.Queue[bytes | None]()
        self._task: asyncio.Task[Status] | None = None

    def serve(self, method: Method) -> "asyncio.Task[Status]":
        self._task = asyncio.create_task(self._serve(method))
        return self._task

    async def _serve(self, method: Method) -> Status:
        try:
            return await method.serve(self)
        finally:
            self._responses.put_nowait(None)

    async def start(self, metadata: Metadata) -> None:
        self.metadata = metadata

    async def read(self) -> bytes | None:
        return await self._requests.get()

    async def write(self, message: bytes) -> None:
        if self.cuts:
            raise Gone
        await self.reads.wait()
        self._responses.put_nowait(message)

    def cut(self, *, reason: str, why: str) -> None:
        self.cuts.append(reason)

    def send(self, message: bytes) -> None:
        self._requests.put_nowait(message)

    def half_close(self) -> None:
        self._requests.put_nowait(None)

    def cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

    async def receive(self) -> bytes | None:
        """Returns the next message; None at the end of the call."""
        async with asyncio.timeout(30):
            return await self._responses.get()

    async def ended(self) -> Status:
        """Returns the call's status. Raises `CancelledError` if it was cancelled."""
        assert self._task is not None
        async with asyncio.timeout(30):
            return await self._task


class MemoryTransport:
    """Implements `Transport`."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str], Method] = {}
        self._tasks: set[asyncio.Task[Status]] = set()

    async def start(self, methods: Sequence[Method]) -> int:
        self._methods = {(method.service, method.name): method for method in methods}
        return 0

    async def stop(self, grace: float) -> None:
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=grace)
            for task in left:
                task.cancel()

    def call(self, method: str, *requests: bytes, caller: Caller | None = None) -> MemoryCall:
        """Calls a method, such as elman.v1.Inference/Predict, and sends requests."""
        call = MemoryCall(caller or Caller(peer="memory:"))
        for request in requests:
            call.send(request)
        service, _, name = method.partition("/")
        task = call.serve(self._methods[service, name])
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call
