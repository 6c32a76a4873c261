"""A stream of elements to a model and of predictions from it, for threads."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from math import inf
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from elman._core.deadline import Deadline
from elman._core.generate import Generation
from elman._core.home import refuse_pickle
from elman._core.models import KnownModel
from elman._core.pipeline import Pipeline
from elman._core.session import Operation
from elman._threads.rpc import SessionHandle
from elman._wire.codec import Codec, is_sequence
from elman._wire.model import Model
from elman._wire.prediction import Prediction
from elman.errors import InvalidElement

T = TypeVar("T")


class Stream:
    """One session of a model. Made by `Client.stream`; its `with` block closes it.

    Any number of threads may use it at once, to push in one and read in another say. Every method
    that waits for the server raises `DeadlineExceeded` after the stream's timeout, and the error
    that ended the session, if one did. Predictions of `push` and `push_many` are kept until they
    are read by iterating the stream; those of `step` and `map` go to their callers, or, if these
    give up waiting for them, are kept too.
    """

    def __init__(
        self,
        handle: SessionHandle,
        known: KnownModel,
        timeout: float,
        branch: "Callable[[bytes], Stream]",
    ) -> None:
        """`branch` opens another stream from a ticket."""
        self._handle = handle
        self._session = handle.session
        self._codec = known.codec
        self._timeout = timeout
        self._branch = branch
        self.model: Model = known.model

    @property
    def id(self) -> str:
        """The server's name for the session, as in its logs; another on another server."""
        return self._session.id

    @property
    def position(self) -> int:
        """How many elements were pushed: the position that the next one will have."""
        return self._session.pushed

    def step(self, element: Any) -> Prediction:
        """Pushes one element and waits for its prediction.

        An element is a `str` of one character, an int (or its name, where the model has names), or
        an array of the input's shape. Raises `InvalidElement` before anything is sent if it does
        not fit the model.
        """
        return self._run(self._session.step(self._codec.one(element)))

    def push(self, element: Any) -> None:
        """Pushes one element; waits only while the session's window is full."""
        self._run(self._session.push(self._codec.one(element)))

    def push_many(self, elements: Any) -> None:
        """Pushes a `str` of any length, a sequence of ids, or an array [n, *shape].

        Waits while the session's window is full, and returns when the last one is pushed. Nothing
        is pushed if any of them does not fit the model.
        """
        self._run(self._session.push(self._codec.many(elements)))

    def map(self, elements: Any) -> Iterator[Prediction]:
        """The predictions of `elements`, in order, each as soon as it comes.

        A `str`, list, tuple or array is checked as a whole, before any of it is pushed. Of any
        other iterable, elements are taken one by one by a thread of its own, not more than a window
        ahead of the reader: so it may block, as a live source does, and holds back no prediction.
        An error that it raises is raised here after the predictions of the elements before it.
        Leaving the loop early leaves the predictions of what was pushed to whoever iterates the
        stream; the thread ends as soon as the source lets it.
        """
        if is_sequence(elements):
            pipeline = Pipeline(self._session, self._codec.many(elements))
            return self._drain(pipeline, None)
        if not isinstance(elements, Iterable):
            raise InvalidElement(f"elements is {elements!r}; allowed are a sequence or an iterable")
        pipeline = Pipeline(self._session)
        feeder = threading.Thread(
            target=_feed,
            args=(self._handle, self._codec, pipeline, elements),
            name="elman-map",
            daemon=True,
        )
        return self._drain(pipeline, feeder)

    def generate(
        self,
        prime: Any,
        *,
        length: int,
        output: str | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Iterator[Any]:
        """Pushes `prime`, then samples `length` symbols one by one, pushing each, as they come.

        Yields the characters of a text model, the ids of a token model (their names, where it has
        them). `output` is the one whose entries stand for those; it may be left out if there is
        only one. Every symbol that is yielded has been pushed, so the stream can go on from there.

        `temperature` 0 takes the most probable symbol; `top_k` samples among that many. The same
        `seed` gives the same symbols. The server sends what the stream asked for: open it with
        `outputs=elman.Top(name, k)` where `k` alternatives suffice, so that no more is transferred.
        """
        generation = Generation(
            self._session,
            self.model,
            self._codec,
            prime,
            length=length,
            output=output,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )
        return self._symbols(generation)

    def ticket(self) -> bytes:
        """What it takes to go on from here: `Client.stream(model, ticket=...)`, on any server with
        the same model and ticket key, in another process, on another day; until it expires.

        It is of all elements that were pushed before. The stream itself goes on as well.
        """
        return self._run(self._session.take_ticket())

    def fork(self) -> "Stream":
        """Another stream that goes on from here, with the same options. Neither touches the other.

        Predictions of what was pushed before go to this one.
        """
        return self._branch(self.ticket())

    def close(self) -> None:
        """No more elements. Those that were pushed are finished, and can still be read."""
        self._handle.close()

    def __iter__(self) -> Iterator[Prediction]:
        """The predictions of what was pushed, in order, until the stream is closed."""
        return self

    def __next__(self) -> Prediction:
        prediction = self._run(self._session.next())
        if prediction is None:
            raise StopIteration
        return prediction

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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

    def _run(self, operation: Operation[T]) -> T:
        return self._handle.run(operation, Deadline(self._timeout))

    def _symbols(self, generation: Generation) -> Iterator[Any]:
        try:
            while (symbol := self._run(generation.next())) is not None:
                yield symbol
        finally:
            self._handle.monitor.defer(generation.abandon)

    def _drain(self, pipeline: Pipeline, feeder: threading.Thread | None) -> Iterator[Prediction]:
        if feeder:
            feeder.start()
        try:
            while (batch := self._run(pipeline.batch())) is not None:
                yield from batch
        finally:
            # Here may be anywhere: a loop that is left is finalised when it is collected.
            self._handle.monitor.defer(pipeline.abandon)


def _feed(handle: SessionHandle, codec: Codec, pipeline: Pipeline, elements: Iterable[Any]) -> None:
    """Holds no stream: one that nobody has is closed, whatever its source does."""
    error: BaseException | None = None
    try:
        for element in elements:
            if not handle.run(pipeline.feed(codec.one(element)), Deadline(inf)):
                break
    except BaseException as raised:
        error = raised
    with handle.monitor.lock:
        pipeline.end(error)
