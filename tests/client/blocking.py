"""`elman.aio` behind the interface of `elman`, so that one test holds both to the same behaviour.

An event loop runs in a thread; every call runs there as a task and is waited for.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import elman
import elman.aio

T = TypeVar("T")


class Loop:
    """Runs coroutines in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """A function that must run in the loop's thread."""

        async def call() -> T:
            return function(*args, **options)

        return self.run(call())

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Closes an async generator when it is closed itself."""
        try:
            while True:
                try:
                    yield self.run(_next(iterator))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(iterator, "aclose", None)
            if close:
                self.run(close())

    def close(self) -> None:
        leftovers = self.call(lambda: [t for t in asyncio.all_tasks() if not t.done()])
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert len(leftovers) <= 1, f"tasks were left: {leftovers}"


async def _next(iterator: AsyncIterator[T]) -> T:
    return await anext(iterator)


class Stream:
    """As `elman.Stream`."""

    def __init__(self, loop: Loop, stream: elman.aio.Stream) -> None:
        self._loop = loop
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def step(self, element: Any) -> elman.Prediction:
        return self._loop.run(self._stream.step(element))

    def push(self, element: Any) -> None:
        self._loop.run(self._stream.push(element))

    def push_many(self, elements: Any) -> None:
        self._loop.run(self._stream.push_many(elements))

    def map(self, elements: Any) -> Iterator[elman.Prediction]:
        return self._loop.iterate(self._loop.call(self._stream.map, elements))

    def generate(self, prime: Any, **options: Any) -> Iterator[Any]:
        return self._loop.iterate(self._loop.call(self._stream.generate, prime, **options))

    def ticket(self) -> bytes:
        return self._loop.run(self._stream.ticket())

    def fork(self) -> "Stream":
        return Stream(self._loop, self._loop.run(self._stream.fork()))

    def close(self) -> None:
        self._loop.run(self._stream.close())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> elman.Prediction:
        try:
            return self._loop.run(_next(self._stream))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._stream.__aexit__(kind, error, traceback))


class Client:
    """As `elman.Client`."""

    def __init__(self, loop: Loop, client: elman.aio.Client) -> None:
        self._loop = loop
        self._client = client

    def models(self) -> list[elman.Model]:
        return self._loop.run(self._client.models())

    def model(self, name: str, version: str | int | None = None) -> elman.Model:
        return self._loop.run(self._client.model(name, version))

    def stream(self, model: str, **options: Any) -> Stream:
        return Stream(self._loop, self._loop.run(_open(self._client.stream(model, **options))))

    def predict(self, model: str, sequence: Any, **options: Any) -> elman.Predictions:
        return self._loop.run(self._client.predict(model, sequence, **options))

    def close(self, grace: float = 5.0) -> None:
        self._loop.run(self._client.close(grace))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._client.__aexit__(kind, error, traceback))


def connect(loop: Loop, target: str | Sequence[str], **options: Any) -> Client:
    """As `elman.connect`."""

    async def connect() -> elman.aio.Client:
        return await elman.aio.connect(target, **options)

    return Client(loop, loop.run(connect()))


async def _open(opening: Any) -> Any:
    return await opening
