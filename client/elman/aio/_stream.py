"""A stream of elements to a model and of predictions back, for asyncio."""

import asyncio
import sys
import warnings
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from math import inf
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from elman._core.models import KnownModel
from elman._core.session.deadline import Deadline
from elman._core.session.generate import GenerateOptions, Generation
from elman._core.session.operation import Operation
from elman._core.session.pipeline import Pipeline
from elman._process.home import refuse_pickle
from elman._wire.codec import is_sequence
from elman._wire.model import Model
from elman._wire.prediction import Prediction
from elman.aio._session_handle import SessionHandle
from elman.errors import InvalidElement

T = TypeVar("T")


class Stream:
    """A session of a model. Made by `Client.stream`; closed by the end of an `async with` block.

    See `elman.Stream`, with tasks in place of threads.
    """

    def __init__(
        self,
        handle: SessionHandle,
        known: KnownModel,
        timeout: float,
        branch: "Callable[[bytes], Awaitable[Stream]]",
    ) -> None:
        """`branch` opens another stream from a ticket."""
        self._handle = handle
        self._session = handle.session
        self._known = known
        self._codec = known.codec
        self._timeout = timeout
        self._branch = branch
        self.model: Model = known.model

    @property
    def id(self) -> str:
        """Server's id of the session, as in the server's logs. The id changes with the server."""
        return self._session.id

    @property
    def position(self) -> int:
        """Number of elements pushed: the position of the next element."""
        return self._session.pushed

    async def step(self, element: Any) -> Prediction:
        """Pushes an element and waits for the prediction. See `elman.Stream.step`."""
        return await self._run(self._session.step(self._codec.one(element)))

    async def push(self, element: Any) -> None:
        """Pushes an element; waits only while the session's window is full."""
        await self._run(self._session.push(self._codec.one(element)))

    async def push_many(self, elements: Any) -> None:
        """Pushes a `str` of any length, a sequence of ids, or an array [n, *shape].

        See `elman.Stream.push_many`.
        """
        await self._run(self._session.push(self._codec.many(elements)))

    def map(self, elements: Any) -> AsyncIterator[Prediction]:
        """Pushes `elements` and yields their predictions in order, each as soon as it arrives.

        See `elman.Stream.map`; `elements` may also be an async iterable. A separate task takes
        elements from any iterable except sequences. A plain iterable therefore should not block.
        """
        if is_sequence(elements):
            return self._drain(Pipeline(self._session, self._codec.many(elements)))
        if not isinstance(elements, Iterable | AsyncIterable):
            raise InvalidElement(
                f"elements is {elements!r}; "
                "allowed are a sequence, an iterable or an async iterable"
            )
        return self._drain(Pipeline(self._session), elements)

    def generate(
        self,
        prime: Any,
        *,
        length: int,
        output: str | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> AsyncIterator[Any]:
        """Pushes `prime`, then samples `length` symbols, and yields and pushes each symbol.

        See `elman.Stream.generate`.
        """
        generation = Generation(
            self._session,
            self._known,
            prime,
            GenerateOptions(
                length=length,
                output=output,
                temperature=temperature,
                top_k=top_k,
                seed=seed,
            ),
        )
        return self._symbols(generation)

    async def ticket(self) -> bytes:
        """Waits for a ticket of the session's state, to resume later. See `elman.Stream.ticket`."""
        return await self._run(self._session.take_ticket())

    async def fork(self) -> "Stream":
        """Opens another stream from the current state. See `elman.Stream.fork`."""
        return await self._branch(await self.ticket())

    async def close(self) -> None:
        """Closes the stream for pushes. Pushed elements are finished, and can still be read."""
        self._handle.close()

    def __aiter__(self) -> AsyncIterator[Prediction]:
        """Predictions of pushed elements, in order, until the stream is closed."""
        return self

    async def __anext__(self) -> Prediction:
        prediction = await self._run(self._session.next())
        if prediction is None:
            raise StopAsyncIteration
        return prediction

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is None or session.closing or sys.is_finalizing():
            return
        if self._handle.drop():
            warnings.warn(
                f"a stream of {self.model.name!r} was never closed",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_pickle("Stream")

    def __repr__(self) -> str:
        return f"<Stream {self.id} of {self.model.name!r} at position {self.position}>"

    def _run(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        return self._handle.run(operation, Deadline(self._timeout))

    async def _symbols(self, generation: Generation) -> AsyncIterator[Any]:
        try:
            while (symbol := await self._run(generation.next())) is not None:
                yield symbol
        finally:
            generation.abandon()

    async def _drain(self, pipeline: Pipeline, elements: Any = None) -> AsyncIterator[Prediction]:
        feeder = None
        if elements is not None:
            feeder = asyncio.create_task(self._feed(pipeline, elements), name="elman-map")
        try:
            while (batch := await self._run(pipeline.batch())) is not None:
                for prediction in batch:
                    yield prediction
        finally:
            pipeline.abandon()
            if feeder:
                feeder.cancel()
                await asyncio.wait([feeder])

    async def _feed(self, pipeline: Pipeline, elements: Any) -> None:
        error: BaseException | None = None
        try:
            if not isinstance(elements, AsyncIterable):
                elements = _each(elements)
            async for element in elements:
                if not await self._handle.run(
                    pipeline.feed(self._codec.one(element)), Deadline(inf)
                ):
                    break
        except BaseException as raised:
            error = raised
        pipeline.end(error)


async def _each(elements: Any) -> AsyncIterator[Any]:
    for element in elements:
        yield element
