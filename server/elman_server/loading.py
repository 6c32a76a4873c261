"""A step model's file loaded and probed within a server's settings, whoever asks: the server, or
`elman inspect`, which says what a server would."""

from dataclasses import dataclass

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.modelfile import ModelFile
from elman_server.runner.model import StepModel
from elman_server.runner.probe import Probe, probe
from elman_server.runner.runtime import Device, DeviceUnavailable, one_line
from elman_server.spec import ModelSpec

MAX_STEP_NBYTES = 64 * 1024 * 1024
"""What one step's outputs may take, and the contexts that it takes in, so that a large vocabulary
or context does not fill the memory."""
_OPENING_NBYTES = 1024
"""Bytes that a frame which opens a session may take beside its contexts."""


class LoaderBroken(ModelLoadError):
    """Something that the loader does not know of; its cause is worth a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A model that passed its probe."""

    model: StepModel
    probe: Probe
    rows: int
    """In batches of how many, at most, it was probed."""


def load(file: ModelFile, config: ServerConfig) -> Probed:
    """Raises `ModelLoadError` if the model can't be served, `LoaderBroken` where that was not
    foreseen."""
    try:
        _check_contexts(file.spec, config)
        model = StepModel(
            file,
            threads=config.threads,
            providers=config.providers,
            device=Device.parse(config.device),
        )
        rows = most_rows(file.spec, config)
        found = probe(model, max_batch_size=rows, max_chunk=config.max_chunk)
    except ModelLoadError:
        raise
    except Exception as error:  # one model's trouble must not keep the others from serving
        raise LoaderBroken(f"{type(error).__name__}: {one_line(error)}") from error
    return Probed(model=model, probe=found, rows=rows)


def trouble(device: str) -> str:
    """Why models can't run there; empty if they can."""
    try:
        Device.parse(device).require()
    except DeviceUnavailable as error:
        return str(error)
    return ""


def most_rows(spec: ModelSpec, config: ServerConfig) -> int:
    """How many sessions may be worked on together, if the model lets them."""
    nbytes = max(1, spec.context_nbytes)
    return max(1, min(config.max_batch_size, MAX_STEP_NBYTES // nbytes))


def _check_contexts(spec: ModelSpec, config: ServerConfig) -> None:
    """Raises `ModelLoadError` if no message could hold a session's contexts."""
    largest = config.max_message_bytes - _OPENING_NBYTES
    if spec.context_nbytes > largest:
        raise ModelLoadError(
            f"a session's contexts take {spec.context_nbytes} bytes; with max_message_bytes "
            f"{config.max_message_bytes}, allowed are {largest}"
        )
