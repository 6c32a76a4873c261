"""How much of a model goes through one step, when it is probed and when it is served: bounded by
bytes as well as by numbers, so that a large state, vocabulary or context does not fill the memory.
"""

from elman_server.config import ServerConfig
from elman_server.model.spec import ModelSpec
from elman_server.runner.probe import LEAST_WITNESSES, MOST_WITNESSES, STEPS

MAX_STEP_NBYTES = 64 * 1024 * 1024
"""Bytes that one step may take in and give: elements, states, contexts and outputs."""


def most_rows(spec: ModelSpec, config: ServerConfig) -> int:
    """How many sessions may be worked on together, if the model lets them; at least one."""
    nbytes = 2 * spec.carried_nbytes + spec.context_nbytes + spec.input.nbytes + spec.output_nbytes
    return _within(config.max_batch_size, nbytes)


def most_elements(spec: ModelSpec, config: ServerConfig) -> int:
    """How many elements, padding included, may be in one step; at least one."""
    return _within(config.max_step_elements, spec.input.nbytes + spec.output_nbytes)


def longest_chunk(spec: ModelSpec, config: ServerConfig) -> int:
    """How many elements of one session may be in one step; at least one."""
    return min(config.max_chunk, most_elements(spec, config))


def witnesses(spec: ModelSpec, config: ServerConfig) -> int:
    """How many rows the probe compares with what they give alone: for several elements of each, all
    outputs are kept."""
    most = min(MOST_WITNESSES, most_rows(spec, config))
    return max(LEAST_WITNESSES, min(most, MAX_STEP_NBYTES // (STEPS * spec.output_nbytes)))


def _within(most: int, nbytes: int) -> int:
    return max(1, min(most, MAX_STEP_NBYTES // max(1, nbytes)))
