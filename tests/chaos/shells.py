"""The client for threads behind the interface of the one for asyncio, so that one test tries both.

Each call runs in a thread of its own, and the event loop goes on.
"""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import elman
from elman import aio

SHELLS = pytest.mark.parametrize("shell", ["threads", "asyncio"])


class _Stream:
    def __init__(self, stream: elman.Stream) -> None:
        self._stream = stream

    async def step(self, element: Any) -> elman.Prediction:
        return await asyncio.to_thread(self._stream.step, element)

    async def push(self, element: Any) -> None:
        await asyncio.to_thread(self._stream.push, element)

    async def all_of(self, elements: Any) -> list[elman.Prediction]:
        return await asyncio.to_thread(lambda: list(self._stream.map(elements)))


class _AsyncStream:
    def __init__(self, stream: aio.Stream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def all_of(self, elements: Any) -> list[elman.Prediction]:
        return [prediction async for prediction in self._stream.map(elements)]


class Client:
    def __init__(self, client: elman.Client | aio.Client) -> None:
        self._client = client

    async def stream(self, *arguments: Any, **options: Any) -> Any:
        if isinstance(self._client, aio.Client):
            return _AsyncStream(await self._client.stream(*arguments, **options))
        return _Stream(await asyncio.to_thread(self._client.stream, *arguments, **options))

    async def predict(self, *arguments: Any, **options: Any) -> elman.Predictions:
        if isinstance(self._client, aio.Client):
            return await self._client.predict(*arguments, **options)
        return await asyncio.to_thread(self._client.predict, *arguments, **options)

    async def close(self, grace: float = 5.0) -> None:
        if isinstance(self._client, aio.Client):
            await self._client.close(grace)
        else:
            await asyncio.to_thread(self._client.close, grace)


@asynccontextmanager
async def connected(shell: str, target: str | Sequence[str], **options: Any) -> Any:
    made: elman.Client | aio.Client
    if shell == "asyncio":
        made = await aio.connect(target, **options)
    else:
        made = await asyncio.to_thread(elman.connect, target, **options)
    client = Client(made)
    try:
        yield client
    finally:
        async with asyncio.timeout(15):
            await client.close(grace=0)
