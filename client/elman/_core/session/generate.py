"""Generation: samples a symbol from a prediction and pushes the symbol back to the model.

Independent of sockets, threads and event loops, like `elman._core.session.session`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elman._core.models import KnownModel
from elman._core.session.mailbox import Mailbox
from elman._core.session.operation import Operation
from elman._core.session.pipeline import Pipeline
from elman._core.session.sampler import Sampler, check_integer
from elman._core.session.session import Session
from elman._wire.model import Input, InputKind, OutputKind
from elman._wire.outputs import Column
from elman._wire.prediction import Prediction
from elman.errors import InvalidElement, InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Arguments of `Stream.generate` beside the prime."""

    length: int
    output: str | None
    temperature: float
    top_k: int | None
    seed: int | None


class Generation:
    """Yields symbols, and pushes each symbol before returning it.

    The next prediction is thus computed while the caller uses the present symbol.
    """

    def __init__(
        self,
        session: Session,
        known: KnownModel,
        prime: Any,
        options: GenerateOptions,
    ) -> None:
        check_integer("length", options.length, 0)
        model, codec = known.model, known.codec
        payload = codec.many(prime)
        if not payload:
            raise InvalidElement("prime is empty; there must be an element to predict the next of")
        self._session = session
        self._codec = codec
        self._left = options.length
        self._column = choose(session.layout.columns, model.input, options.output)
        self._names = self._column.output.labels or model.input.vocabulary
        self._sampler = Sampler(options.temperature, options.top_k, options.seed)
        self._prime: Pipeline | None = Pipeline(session, payload)
        self._mailbox = Mailbox()

    def next(self) -> Operation[str | int | None]:
        """Waits for the next symbol; None after the last."""
        if self._prime and not self._left:
            yield from self._last()
        if not self._left:
            return None
        symbol = self._draw((yield from self._last()))
        yield from self._session.make_room()
        self._session.put(self._codec.one(symbol), 1, self._mailbox)
        self._left -= 1
        return symbol

    def abandon(self) -> None:
        """Ends the generation. The rest of the prime is not pushed.

        Unread predictions of the prime go to the inbox, as with `Pipeline.abandon`.
        """
        self._left = 0
        if self._prime:
            self._prime.abandon()
            self._prime = None

    def _last(self) -> Operation[Prediction]:
        """Waits for the prediction of the last element pushed."""
        if self._prime:
            while (batch := (yield from self._prime.batch())) is not None:
                for prediction in batch:
                    last = prediction
            self._prime = None
            return last
        while not self._mailbox:
            if self._session.failure:
                raise self._session.failure()
            yield True
        return self._mailbox.get()

    def _draw(self, prediction: Prediction) -> str | int:
        _, probabilities, indices = prediction.entries(self._column.output.name)
        drawn = self._sampler.draw(probabilities)
        index = drawn if indices is None else int(indices[drawn])
        return self._names[index] if self._names else index


def choose(columns: Sequence[Column], model_input: Input, name: str | None) -> Column:
    """Returns the column to sample from: probabilities or logits over the input's symbols.

    Raises `InvalidRequest` if there is no such column, or several and no name.
    """
    fitting = {column.output.name: column for column in columns if _fits(column, model_input)}
    if name is None and len(fitting) == 1:
        return next(iter(fitting.values()))
    if name in fitting:
        return fitting[name]
    refused = "" if name is None else f"output {name!r} does not fit; "
    raise InvalidRequest(
        f"{refused}generate needs a requested output of logits or probabilities over the input's "
        f"symbols; of this stream's {', '.join(c.output.name for c in columns)} these are: "
        f"{', '.join(fitting) or 'none'}"
    )


def _fits(column: Column, model_input: Input) -> bool:
    output = column.output
    if output.kind is OutputKind.VALUES or len(output.shape) != 1:
        return False
    if output.labels:
        return set(output.labels) <= set(model_input.vocabulary)
    return model_input.kind is InputKind.TOKENS and output.shape[0] == model_input.size
