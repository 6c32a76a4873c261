"""Cache of models, so that opening a stream needs no lookup."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from elman._wire.codec import Codec, codec
from elman._wire.model import Model, model_from_proto
from elman.errors import ServerError
from elman.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with the codec for its elements."""

    model: Model
    codec: Codec

    @staticmethod
    def of(response: pb.GetModelResponse) -> "KnownModel":
        model = read_model(response.model)
        return KnownModel(model, codec(model))


class ModelCache:
    """Keeps answers of GetModel for `lifetime` seconds, the time to notice a newer version."""

    def __init__(self, lifetime: float = 30.0, clock: Callable[[], float] = monotonic) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._models: dict[tuple[str, str], tuple[float, KnownModel]] = {}

    def get(self, request: pb.GetModelRequest) -> KnownModel | None:
        expiry, known = self._models.get((request.name, request.version), (0.0, None))
        return known if self._clock() < expiry else None

    def put(self, request: pb.GetModelRequest, response: pb.GetModelResponse) -> KnownModel:
        known = KnownModel.of(response)
        self._models[request.name, request.version] = (self._clock() + self._lifetime, known)
        return known

    def forget(self, name: str) -> None:
        """Removes a model from the cache, as another server may serve other versions."""
        for key in [key for key in list(self._models) if key[0] == name]:
            self._models.pop(key, None)


def omitted_labels(
    model: pb.Model,
) -> Generator[pb.ListLabelsRequest, pb.ListLabelsResponse, None]:
    """Completes a model sent without labels, for lack of room in the message.

    Yields the requests and receives the answers. Raises `ServerError` for an inconsistent number of
    labels.
    """
    if model.input.vocabulary_omitted:
        yield from _labels(model, "", model.input.vocabulary)
        model.input.vocabulary_omitted = False
    for output in model.outputs:
        if output.labels_omitted:
            yield from _labels(model, output.name, output.labels)
            output.labels_omitted = False


def _labels(
    model: pb.Model, output: str, labels: Any
) -> Generator[pb.ListLabelsRequest, pb.ListLabelsResponse, None]:
    total = 1
    while len(labels) < total:
        answer = yield pb.ListLabelsRequest(
            model=model.name, version=model.version, output=output, start=len(labels)
        )
        labels.extend(answer.labels)
        total = answer.total
        if not answer.labels:
            break
    if len(labels) != total:
        raise ServerError(
            f"of the labels of model {model.name!r} {len(labels)} came; there are {total}"
        )


def read_model(message: pb.Model) -> Model:
    """Reads a model. Raises `ServerError` for a model unknown to this SDK."""
    try:
        return model_from_proto(message)
    except ValueError as error:
        raise ServerError(f"{error}; a newer elman may know it") from None


def pin(request: pb.GetModelRequest, ticket: bytes | None, session: str | None) -> None:
    """Requests the version of a ticket or, without a ticket, the version of a named session."""
    if ticket:
        request.ticket = ticket
    elif session:
        request.session = session


def model_request(name: str, version: str | int | None) -> pb.GetModelRequest:
    return pb.GetModelRequest(name=name, version="" if version is None else str(version))
