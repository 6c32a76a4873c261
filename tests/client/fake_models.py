"""The models of the fake server: running sums weighted by position.

So any element that is lost, doubled, swapped or sent to another session shows in every later
prediction.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from elman.v1 import inference_pb2 as pb

LETTERS = "abcdefghijklmnopqrstuvwxyz .!"
REFUSED = "!"
"""A letter that is in the vocabulary, and that this server refuses all the same."""
PEAK = 5.0
"""The logit of the letter that follows in `LETTERS`; `REFUSED` never does, the others' is 0."""

_TOTAL = pb.Output(name="total", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_INT64)
_NEXT = pb.Output(
    name="next",
    kind=pb.OUTPUT_KIND_LOGITS,
    data_type=pb.DATA_TYPE_FLOAT32,
    shape=[len(LETTERS)],
    labels=LETTERS,
)
_UNLABELLED = pb.Output(
    name="next",
    kind=pb.OUTPUT_KIND_LOGITS,
    data_type=pb.DATA_TYPE_FLOAT32,
    shape=[len(LETTERS)],
)
_SUMS = pb.Output(
    name="sums", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_FLOAT32, shape=[2]
)
_LEVEL = pb.Output(name="level", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_FLOAT64)

MODELS = {
    model.name: model
    for model in (
        pb.Model(
            name="letters",
            version="2",
            fingerprint="f00d",
            description="sums of letters",
            input=pb.Input(kind=pb.INPUT_KIND_TEXT, size=len(LETTERS), vocabulary=LETTERS),
            outputs=[_TOTAL, _NEXT],
            state_bytes=8,
        ),
        pb.Model(
            name="tokens",
            version="1",
            input=pb.Input(
                kind=pb.INPUT_KIND_TOKENS,
                data_type=pb.DATA_TYPE_INT32,
                size=len(LETTERS),
                vocabulary=[f"token{i}" for i in range(len(LETTERS))],
            ),
            outputs=[_TOTAL, _UNLABELLED],
        ),
        pb.Model(
            name="pairs",
            version="1",
            input=pb.Input(kind=pb.INPUT_KIND_FEATURES, data_type=pb.DATA_TYPE_FLOAT32, shape=[2]),
            outputs=[_SUMS],
        ),
        pb.Model(
            name="scalars",
            version="1",
            input=pb.Input(kind=pb.INPUT_KIND_FEATURES, data_type=pb.DATA_TYPE_FLOAT64),
            outputs=[_LEVEL],
        ),
        pb.Model(
            name="begun",
            version="1",
            input=pb.Input(kind=pb.INPUT_KIND_TEXT, size=len(LETTERS), vocabulary=LETTERS),
            outputs=[_TOTAL, _NEXT],
            contexts=[
                pb.Context(name="start", data_type=pb.DATA_TYPE_INT64),
                pb.Context(name="pair", data_type=pb.DATA_TYPE_FLOAT32, shape=[2]),
            ],
        ),
    )
}


def letter_totals(text: str, start: int = 0) -> list[int]:
    """What `letters` predicts as `total` for each element of `text`, and `begun` from a start."""
    return _totals([LETTERS.index(letter) for letter in text], total=start)


def _totals(ids: Sequence[int], position: int = 0, total: int = 0) -> list[int]:
    totals = []
    for i, id in enumerate(ids, position):
        total += (id + 1) * (i + 1)
        totals.append(total)
    return totals


class FakeSession:
    """One session: consumes elements, remembers their sum."""

    def __init__(
        self,
        model: pb.Model,
        outputs: Sequence[pb.OutputRequest],
        contexts: Sequence[pb.ContextValue] = (),
    ) -> None:
        given = {value.name: value.raw for value in contexts}
        assert given.keys() == {context.name for context in model.contexts}
        self.model = model
        self.outputs = list(outputs) or [pb.OutputRequest(name=o.name) for o in model.outputs]
        self.position = 0
        # `begun` begins with its start and the sum of its pair.
        self._total = int.from_bytes(given.get("start", b""), "little", signed=True)
        self._total += int(np.frombuffer(given.get("pair", b""), "<f4").sum())
        self._sums = np.zeros(tuple(model.input.shape))

    @property
    def key(self) -> bytes:
        return b"|".join(output.SerializeToString() for output in self.outputs)

    def run(self, elements: str | bytes) -> tuple[int, list[pb.Values]]:
        """How many elements these are, and the requested outputs for them."""
        arrays: dict[str, np.ndarray]
        if isinstance(elements, bytes) and self.model.input.kind == pb.INPUT_KIND_FEATURES:
            dtype = "<f4" if self.model.input.shape else "<f8"
            given = np.frombuffer(elements, dtype).reshape(-1, *self.model.input.shape)
            sums = self._sums + np.cumsum(given, axis=0)
            count = len(given)
            self._sums = sums[-1]
            arrays = {self.model.outputs[0].name: sums.astype(dtype)}
        else:
            if isinstance(elements, str):
                ids = [LETTERS.index(letter) for letter in elements]
            else:
                ids = np.frombuffer(elements, "<i4").tolist()
            count = len(ids)
            totals = _totals(ids, self.position, self._total)
            self._total = totals[-1]
            logits = np.zeros((count, len(LETTERS)), "<f4")
            logits[:, LETTERS.index(REFUSED)] = -np.inf
            logits[np.arange(count), (np.array(ids) + 1) % (len(LETTERS) - 1)] = PEAK
            arrays = {"total": np.array(totals, "<i8"), "next": logits}
        self.position += count
        return count, [_shape(arrays[output.name], output) for output in self.outputs]


def _shape(array: np.ndarray, request: pb.OutputRequest) -> pb.Values:
    if request.form == pb.FORM_RAW:
        return pb.Values(values=array.tobytes())
    weights = np.exp(array)
    probabilities = (weights / weights.sum(axis=-1, keepdims=True)).astype("<f4")
    if request.form == pb.FORM_PROBABILITIES:
        return pb.Values(values=probabilities.tobytes())
    best = np.argsort(-probabilities, axis=-1, kind="stable")[..., : request.k]
    return pb.Values(
        values=np.take_along_axis(probabilities, best, -1).tobytes(),
        indices=best.astype("<u4").tobytes(),
    )


def unpack(model: pb.Model, push: pb.Push) -> Iterator[tuple[int, str | bytes]]:
    """Each session's elements."""
    if not push.sessions:
        return
    text = push.WhichOneof("elements") == "text"
    elements: str | bytes = push.text if text else push.raw
    unit = 1
    if not text:
        unit = {"tokens": 4, "pairs": 8, "scalars": 8}[model.name]
    share = len(elements) // unit // len(push.sessions)
    start = 0
    for number, count in zip(
        push.sessions, push.counts or [share] * len(push.sessions), strict=True
    ):
        stop = start + count * unit
        yield number, elements[start:stop]
        start = stop
    assert start == len(elements), "counts and elements differ"
