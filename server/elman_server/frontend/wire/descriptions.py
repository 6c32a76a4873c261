"""Descriptions of models for clients, within the size limit of messages.

A vocabulary may be larger than a message. Then the description omits the longest lists of names and
says so. Clients can fetch an omitted list in pieces.
"""

from collections.abc import Iterator, Sequence

from elman.v1 import inference_pb2 as pb
from elman_server.errors import AnswerTooLarge, InvalidRequest
from elman_server.frontend.wire import messages
from elman_server.model.modelfile import ModelFile
from elman_server.serving.served import ServedModel

_OVERHEAD = 1024
"""Bytes reserved for the rest of an answer, besides the counted fields."""
_FIELD_OVERHEAD = 8
"""Most bytes for a field's number and length."""
_LEAST_OVERHEAD = 2
"""Fewest bytes for a field's number and length."""
_MOST_PIECE = 1024 * 1024
"""Bytes of names in one answer: every client accepts a larger message."""


def describe(models: Sequence[ServedModel], max_message_bytes: int) -> list[pb.Model]:
    """Describes models in one message, without the longest lists of names if necessary.

    Vocabularies of text models are omitted last, because clients need a vocabulary to push text.
    Raises `AnswerTooLarge` if the descriptions do not fit even without lists of names.
    """
    described = [messages.model(model.source, model.file) for model in models]
    room = max_message_bytes - _OVERHEAD
    size = sum(model.ByteSize() + _FIELD_OVERHEAD for model in described)
    if size > room:
        lists = sorted(
            (names for model in described for names in _lists(model)),
            key=lambda names: (names.needed, -names.nbytes),
        )
        for names in lists:
            names.omit()
            size -= names.nbytes
            if size <= room:
                break
    if size > room:
        raise AnswerTooLarge(
            f"a description of {len(described)} models takes {size} bytes; with max_message_bytes "
            f"{max_message_bytes}, allowed are {room}"
        )
    return described


class _Names:
    """A list of names within a description."""

    def __init__(self, of: "pb.Input | pb.Output") -> None:
        self._of = of
        names = of.vocabulary if isinstance(of, pb.Input) else of.labels
        self.nbytes = sum(len(name.encode()) + _LEAST_OVERHEAD for name in names)
        self.needed = isinstance(of, pb.Input) and of.kind == pb.INPUT_KIND_TEXT

    def omit(self) -> None:
        if isinstance(self._of, pb.Input):
            self._of.ClearField("vocabulary")
            self._of.vocabulary_omitted = True
        else:
            self._of.ClearField("labels")
            self._of.labels_omitted = True


def _lists(model: pb.Model) -> Iterator[_Names]:
    if model.input.vocabulary:
        yield _Names(model.input)
    yield from (_Names(output) for output in model.outputs if output.labels)


def labels(
    file: ModelFile, output: str, start: int, max_message_bytes: int
) -> pb.ListLabelsResponse:
    """Returns as many names as fit, from `start` on: names of an output or, if `output` is empty,
    of the input.

    Raises `InvalidRequest` for an unknown output or a too large `start`, and `AnswerTooLarge` for a
    name larger than a message.
    """
    names = _names(file, output)
    if start > len(names):
        raise InvalidRequest(f"start is {start}; there are {len(names)} labels")
    room = min(max_message_bytes - _OVERHEAD, _MOST_PIECE)
    stop = start
    while stop < len(names) and (size := _nbytes(names[stop])) <= room:
        room -= size
        stop += 1
    if start == stop < len(names):
        raise AnswerTooLarge(
            f"label {start} takes {_nbytes(names[start])} bytes; with max_message_bytes "
            f"{max_message_bytes}, allowed are {room}"
        )
    return pb.ListLabelsResponse(labels=names[start:stop], total=len(names))


def _names(file: ModelFile, output: str) -> Sequence[str]:
    if not output:
        return file.spec.input.vocabulary
    for each in file.spec.outputs:
        if each.name == output:
            return each.labels
    known = ", ".join(each.name for each in file.spec.outputs)
    raise InvalidRequest(f"output {output!r} is unknown; the model has {known}")


def _nbytes(name: str) -> int:
    """Returns an upper bound on a name's bytes in a message."""
    return len(name.encode()) + _FIELD_OVERHEAD
