"""A prediction of a whole sequence as a unary call, if the messages are small enough.

Builds and reads messages; the clients make the calls.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elman._core.models import KnownModel
from elman._core.session.mailbox import Run
from elman._core.session.session_options import SessionOptions
from elman._wire.codec import Payload
from elman._wire.contexts import contexts_bytes
from elman._wire.outputs import Frame, Layout
from elman._wire.prediction import Predictions
from elman.v1 import inference_pb2 as pb

ENVELOPE_BYTES = 2048
"""Room in a message beside numbers."""


class PredictCall:
    """Checked elements for a model, with the requested outputs and options."""

    def __init__(self, known: KnownModel, options: SessionOptions, elements: Any) -> None:
        self.model = known.model
        self.codec = known.codec
        self.options = options
        self.layout = options.layout
        self.payload: Payload = known.codec.many(elements)
        self.count = len(self.payload) // known.codec.unit

    def fits(self, max_message_bytes: int) -> bool:
        """Whether request and answer are both within the message limit."""
        request_bytes = self.count * self.codec.width + contexts_bytes(self.options.contexts)
        answer_bytes = self.count * self.layout.row_bytes
        return max(request_bytes, answer_bytes) + ENVELOPE_BYTES <= max_message_bytes

    def request(self) -> pb.PredictRequest:
        request = pb.PredictRequest(
            model=self.model.name,
            version=self.model.version,
            outputs=self.layout.requests,
            contexts=self.options.contexts,
        )
        self.codec.place(request, self.payload)
        return request

    def read(self, response: pb.PredictResponse) -> Predictions:
        """Reads the answer of a unary call.

        Raises `ServerError` unless the answer has one prediction per element.
        """
        return Predictions(self.layout.decode(response.outputs, self.count))

    def gather(self, runs: Sequence[Run]) -> Predictions:
        """Joins the runs of predictions received on a stream."""
        return Predictions(gather(self.layout, runs))


def gather(layout: Layout, runs: Sequence[Run]) -> Frame:
    """Concatenates the rows of many runs into a frame."""
    if not runs:
        return layout.decode([pb.Values() for _ in layout.columns], 0)
    values = []
    indices: list[np.ndarray | None] = []
    for i, column in enumerate(layout.columns):
        values.append(np.concatenate([run.frame.values[i][run.row : run.stop] for run in runs]))
        rows = [run.frame.indices[i] for run in runs]
        indices.append(
            np.concatenate(
                [r[run.row : run.stop] for r, run in zip(rows, runs, strict=True) if r is not None]
            )
            if column.is_top
            else None
        )
    return Frame(layout, sum(run.stop - run.row for run in runs), values, indices)
