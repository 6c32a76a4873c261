"""A stream of elements to a model and of predictions back, for threads."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from math import inf
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from elman._core.models import KnownModel
from elman._core.session.deadline import Deadline
from elman._core.session.generate import GenerateOptions, Generation
from elman._core.session.operation import Operation
from elman._core.session.pipeline import Pipeline
from elman._process.home import refuse_pickle
from elman._threads.session_handle import SessionHandle
from elman._wire.codec import Codec, is_sequence
from elman._wire.model import Model
from elman._wire.prediction import Prediction
from elman.errors import InvalidElement

T = TypeVar("T")


class Stream:
    """A session of a model. Made by `Client.stream`; closed by the end of a `with` block.

    Any number of threads may use a stream at once, for example a thread to push and a thread to
    read. A method waiting for the server raises `DeadlineExceeded` after the stream's timeout. If
    the session failed, every method raises the session's error.

    Predictions of `push` and `push_many` are kept until they are read by iterating the stream.
    Predictions of `step` and `map` go to the caller; if the caller stops waiting, they are kept
    too.
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

    def step(self, element: Any) -> Prediction:
        """Pushes an element and waits for the prediction.

        An element is a `str` of one character, an int (or a name, if the model has names), or an
        array of the input's shape. Raises `InvalidElement` for an invalid element, before sending
        it.
        """
        return self._run(self._session.step(self._codec.one(element)))

    def push(self, element: Any) -> None:
        """Pushes an element; waits only while the session's window is full."""
        self._run(self._session.push(self._codec.one(element)))

    def push_many(self, elements: Any) -> None:
        """Pushes a `str` of any length, a sequence of ids, or an array [n, *shape].

        Waits while the session's window is full, and returns after the last push. If any element is
        invalid, no element is pushed.
        """
        self._run(self._session.push(self._codec.many(elements)))

    def map(self, elements: Any) -> Iterator[Prediction]:
        """Pushes `elements` and yields their predictions in order, each as soon as it arrives.

        A `str`, list, tuple or array is checked as a whole before the first push. Elements of any
        other iterable are taken one by one in a separate thread, at most a window ahead of the
        reader. Such an iterable may block, as a live source does, without delaying predictions. If
        the iterable raises an error, `map` raises the error after the predictions of all earlier
        elements.

        After leaving the loop early, the remaining predictions can be read by iterating the stream;
        the thread ends as soon as the source returns.
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
        """Pushes `prime`, then samples `length` symbols, and yields and pushes each symbol.

        Yields the characters of a text model, or the ids of a token model (names, if the model has
        names). `output` is the output with an entry for each symbol; it may be omitted if there is
        only one. Each yielded symbol has already been pushed, so the stream can go on from there.

        `temperature` 0 takes the most probable symbol; `top_k` samples among the `top_k` most
        probable. Equal values of `seed` give equal symbols. The server sends the outputs requested
        for the stream. If `k` alternatives suffice, open the stream with
        `outputs=elman.Top(name, k)` to transfer less.
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

    def ticket(self) -> bytes:
        """Waits for a ticket of the session's state, to resume later:
        `Client.stream(model, ticket=...)`.

        A ticket works until the expiry, in any process and on any server with the same model and
        ticket key. The ticket covers all elements pushed before the call. The stream goes on as
        well.
        """
        return self._run(self._session.take_ticket())

    def fork(self) -> "Stream":
        """Opens another stream from the current state, with the same options. The two are
        independent.

        Predictions of earlier pushes go to the original stream.
        """
        return self._branch(self.ticket())

    def close(self) -> None:
        """Closes the stream for pushes. Pushed elements are finished, and can still be read."""
        self._handle.close()

    def __iter__(self) -> Iterator[Prediction]:
        """Predictions of pushed elements, in order, until the stream is closed."""
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
            # The finaliser of an abandoned loop may run anywhere, even under the lock.
            self._handle.monitor.defer(pipeline.abandon)


def _feed(handle: SessionHandle, codec: Codec, pipeline: Pipeline, elements: Iterable[Any]) -> None:
    """Feeds a pipeline from an iterable. Holds no reference to the stream.

    An unreferenced stream is thus closed by its finaliser, even while its source blocks.
    """
    error: BaseException | None = None
    try:
        for element in elements:
            if not handle.run(pipeline.feed(codec.one(element)), Deadline(inf)):
                break
    except BaseException as raised:
        error = raised
    with handle.monitor.lock:
        pipeline.end(error)
