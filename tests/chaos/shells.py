"""The client for threads behind the interface of the one for asyncio, so that one test tries both.

Each call runs in a thread of its own, and the event loop goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import pytest

import elman
from elman import aio

T = TypeVar("T")

SHELLS = pytest.mark.parametrize("shell", ["threads", "asyncio"])

Connect = Callable[..., AbstractAsyncContextManager["Client"]]
"""As `connected` with a shell."""

_MOST_THREADS = 1200
"""One for each session of the largest load, and some more."""


class Stream:
    def __init__(self, run: "_Runner", stream: elman.Stream | aio.Stream) -> None:
        self._run = run
        self._stream = stream

    @property
    def position(self) -> int:
        return self._stream.position

    async def step(self, element: Any) -> elman.Prediction:
        if isinstance(self._stream, aio.Stream):
            return await self._stream.step(element)
        return await self._run(self._stream.step, element)

    async def push(self, element: Any) -> None:
        if isinstance(self._stream, aio.Stream):
            await self._stream.push(element)
        else:
            await self._run(self._stream.push, element)

    async def all_of(self, elements: Any) -> list[elman.Prediction]:
        """The predictions of all of these."""
        stream = self._stream
        if isinstance(stream, aio.Stream):
            return [prediction async for prediction in stream.map(elements)]
        return await self._run(lambda: list(stream.map(elements)))

    async def ticket(self) -> bytes:
        if isinstance(self._stream, aio.Stream):
            return await self._stream.ticket()
        return await self._run(self._stream.ticket)

    async def close(self) -> None:
        if isinstance(self._stream, aio.Stream):
            await self._stream.close()
        else:
            await self._run(self._stream.close)


class _Opening(Awaitable[Stream]):
    """Awaited, or entered with `async with`."""

    def __init__(self, opened: Callable[[], Awaitable[Stream]]) -> None:
        self._open = opened

    def __await__(self) -> Generator[Any, None, Stream]:
        return self._open().__await__()

    async def __aenter__(self) -> Stream:
        self._stream = await self._open()
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        await self._stream.close()


class Client:
    def __init__(self, run: "_Runner", client: elman.Client | aio.Client) -> None:
        self._run = run
        self._client = client

    def stream(self, *arguments: Any, **options: Any) -> _Opening:
        return _Opening(lambda: self._stream(*arguments, **options))

    async def _stream(self, *arguments: Any, **options: Any) -> Stream:
        if isinstance(self._client, aio.Client):
            return Stream(self._run, await self._client.stream(*arguments, **options))
        opened = await self._run(self._client.stream, *arguments, **options)
        return Stream(self._run, opened)

    async def predict(self, *arguments: Any, **options: Any) -> elman.Predictions:
        if isinstance(self._client, aio.Client):
            return await self._client.predict(*arguments, **options)
        return await self._run(self._client.predict, *arguments, **options)

    async def close(self, grace: float = 5.0) -> None:
        if isinstance(self._client, aio.Client):
            await self._client.close(grace)
        else:
            await self._run(self._client.close, grace)


class _Runner:
    """Functions that wait, each in a thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    async def __call__(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*arguments, **options))


@asynccontextmanager
async def connected(
    shell: str, target: str | Sequence[str], **options: Any
) -> AsyncIterator[Client]:
    with ThreadPoolExecutor(_MOST_THREADS) as pool:
        run = _Runner(pool)
        made: elman.Client | aio.Client
        if shell == "asyncio":
            made = await aio.connect(target, **options)
        else:
            made = await run(elman.connect, target, **options)
        client = Client(run, made)
        try:
            yield client
        finally:
            async with asyncio.timeout(15):
                await client.close(grace=0)
