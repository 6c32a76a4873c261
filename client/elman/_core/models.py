"""Lookups of models: requests, answers, and a cache, so that most streams need no lookup."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar

from elman._wire.codec import Codec, codec
from elman._wire.model import Model, model_from_proto
from elman.errors import ServerError
from elman.v1 import inference_pb2 as pb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with the codec for its elements."""

    model: Model
    codec: Codec

    @staticmethod
    def of(response: pb.GetModelResponse) -> "KnownModel":
        model = read_model(response.model)
        return KnownModel(model, codec(model))


F = TypeVar("F")


class ModelCache(Generic[F]):
    """Keeps models for `lifetime` seconds, the time to notice a newer version.

    Also knows the requests under way, so that concurrent lookups of a model share a request. `F` is
    a shell's class for such a request.
    """

    def __init__(self, lifetime: float = 30.0, clock: Callable[[], float] = monotonic) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._models: dict[tuple[str, str], tuple[float, KnownModel]] = {}
        self._fetches: dict[tuple[str, str], F] = {}

    def get(self, request: pb.GetModelRequest) -> KnownModel | None:
        expiry, known = self._models.get(_key(request), (0.0, None))
        return known if self._clock() < expiry else None

    def put(self, request: pb.GetModelRequest, known: KnownModel) -> None:
        self._models[_key(request)] = (self._clock() + self._lifetime, known)

    def forget(self, name: str) -> None:
        """Removes a model from the cache, as another server may serve other versions."""
        for key in [key for key in list(self._models) if key[0] == name]:
            self._models.pop(key, None)

    def fetch(self, request: pb.GetModelRequest) -> F | None:
        """Returns the request under way for the same model, or None."""
        return self._fetches.get(_key(request))

    def add_fetch(self, request: pb.GetModelRequest, fetch: F) -> None:
        self._fetches[_key(request)] = fetch

    def remove_fetch(self, request: pb.GetModelRequest) -> None:
        self._fetches.pop(_key(request), None)


def _key(request: pb.GetModelRequest) -> tuple[str, str]:
    return request.name, request.version


def model_request(
    name: str,
    version: str | int | None,
    *,
    ticket: bytes | None = None,
    session: str | None = None,
) -> pb.GetModelRequest:
    """Request for a version: the given version, or a ticket's, or a named session's, or the
    newest."""
    if version is not None:
        return pb.GetModelRequest(name=name, version=str(version))
    if ticket:
        return pb.GetModelRequest(name=name, ticket=ticket)
    return pb.GetModelRequest(name=name, session=session or "")


def is_pinned(request: pb.GetModelRequest) -> bool:
    """Whether a ticket or a named session determines the version. The answer is not cached."""
    return bool(request.ticket or request.session)


@dataclass(frozen=True, slots=True)
class UnaryRequest:
    """Request of a unary call of the Inference service."""

    method: str
    message: Any


Exchange: TypeAlias = Generator[UnaryRequest, Any, T]
"""Yields requests for a shell to send, receives the answers, and returns the result."""


def list_models() -> Exchange[list[Model]]:
    response = yield UnaryRequest("ListModels", pb.ListModelsRequest())
    for model in response.models:
        yield from _omitted_labels(model)
    return [read_model(model) for model in response.models]


def get_model(request: pb.GetModelRequest) -> Exchange[KnownModel]:
    response = yield UnaryRequest("GetModel", request)
    yield from _omitted_labels(response.model)
    return KnownModel.of(response)


def _omitted_labels(model: pb.Model) -> Exchange[None]:
    """Completes a model sent without labels, for lack of room in the message.

    Raises `ServerError` for an inconsistent number of labels.
    """
    if model.input.vocabulary_omitted:
        yield from _labels(model, "", model.input.vocabulary)
        model.input.vocabulary_omitted = False
    for output in model.outputs:
        if output.labels_omitted:
            yield from _labels(model, output.name, output.labels)
            output.labels_omitted = False


def _labels(model: pb.Model, output: str, labels: Any) -> Exchange[None]:
    total = 1
    while len(labels) < total:
        request = pb.ListLabelsRequest(
            model=model.name, version=model.version, output=output, start=len(labels)
        )
        answer = yield UnaryRequest("ListLabels", request)
        labels.extend(answer.labels)
        total = answer.total
        if not answer.labels:
            break
    if len(labels) != total:
        raise ServerError(
            f"the server sent {len(labels)} labels of model {model.name!r}; there are {total}"
        )


def read_model(message: pb.Model) -> Model:
    """Reads a model. Raises `ServerError` for a model unknown to this SDK."""
    try:
        return model_from_proto(message)
    except ValueError as error:
        raise ServerError(f"{error}; a newer elman may know it") from None
