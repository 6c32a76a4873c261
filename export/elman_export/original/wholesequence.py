"""The kind of original that is an ONNX graph of whole sequences, without states among its inputs.

The graph has RNN, LSTM or GRU operators. Their states become inputs and outputs. Sizes written by
the exporter become dynamic. A head on the last step answers at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx

from elman_export.candidate import Candidate
from elman_export.errors import ExportError
from elman_export.options import GraphInputs, Options
from elman_export.pipeline import Original
from elman_export.proof.proof import Sequences
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import step
from elman_export.surgery.wholegraph import WholeGraph
from elman_server.model.spec import ContextSpec, InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSequenceGraph(Original):
    """A graph of whole sequences. The part of the graph from contexts to initial states becomes the
    initial-state network."""

    noun: ClassVar[str] = "graph"
    exact: ClassVar[bool] = False

    input: InputSpec
    contexts: Sequence[ContextSpec]
    graph: WholeGraph
    description: str

    def answer(self, sequences: Sequences) -> Arrays:
        return self.graph.original.answer(sequences, self.graph.outputs)

    def candidates(self) -> Sequence[Callable[[], Candidate]]:
        return [
            partial(build, self.graph, self.description) for build in (step.chunked, step.single)
        ]


def applies(model: onnx.ModelProto, inputs: GraphInputs) -> bool:
    """Returns true: a graph of no other kind takes whole sequences."""
    return True


def original(model: onnx.ModelProto, inputs: GraphInputs, options: Options) -> WholeSequenceGraph:
    """Returns the graph as an original; changes `model`.

    Raises `UnsupportedGraph` with the node that can't be part of a step, and `ExportError` for
    invalid names and for options of graphs with states.
    """
    for name, value in (("overlap", inputs.overlap), ("expected", options.expected)):
        if value:
            raise ExportError(f"{name} is for graphs with states; this one takes whole sequences")
    graph = WholeGraph.of(model, inputs.input, options.outputs, inputs.constants, inputs.contexts)
    return WholeSequenceGraph(
        input=graph.input, contexts=graph.contexts, graph=graph, description=options.description
    )
