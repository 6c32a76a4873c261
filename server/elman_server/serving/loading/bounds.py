"""Bounds on the size of a step, for probing and serving.

Bytes are bounded as well as counts, so a large state, vocabulary or context does not fill the
memory.
"""

from elman_server.config import ServerConfig
from elman_server.model.spec import ModelSpec
from elman_server.runner.probe import LEAST_WITNESSES, MOST_WITNESSES, STEPS

MAX_STEP_NBYTES = 64 * 1024 * 1024
"""Bytes of a step's inputs and outputs: elements, states, contexts and outputs."""


def most_rows(spec: ModelSpec, config: ServerConfig) -> int:
    """Returns the most sessions in a batch, if the model allows batches; at least 1."""
    nbytes = 2 * spec.carried_nbytes + spec.context_nbytes + spec.input.nbytes + spec.output_nbytes
    return _within(config.max_batch_size, nbytes)


def most_elements(spec: ModelSpec, config: ServerConfig) -> int:
    """Returns the most elements in a step, padding included; at least 1."""
    return _within(config.max_step_elements, spec.input.nbytes + spec.output_nbytes)


def longest_chunk(spec: ModelSpec, config: ServerConfig) -> int:
    """Returns the most elements of a single session in a step; at least 1."""
    return min(config.max_chunk, most_elements(spec, config))


def witnesses(spec: ModelSpec, config: ServerConfig) -> int:
    """Returns the number of batch rows that the probe compares with the same rows run alone.

    Bounded by bytes, because the probe keeps all outputs of several elements for each row.
    """
    most = min(MOST_WITNESSES, most_rows(spec, config))
    return max(LEAST_WITNESSES, min(most, MAX_STEP_NBYTES // (STEPS * spec.output_nbytes)))


def _within(most: int, nbytes: int) -> int:
    return max(1, min(most, MAX_STEP_NBYTES // max(1, nbytes)))
