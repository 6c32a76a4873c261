"""Opening and probing of a step model within a server's settings.

Used by the server and by `elman inspect`, so both come to the same result.
"""

from collections.abc import Callable

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.model.modelfile import ModelFile
from elman_server.model.spec import ModelSpec
from elman_server.runner.model import StepModel
from elman_server.runner.probe import Probe, probe
from elman_server.runner.runtime import Device, DeviceUnavailable
from elman_server.serving.loading.bounds import longest_chunk, most_rows, witnesses

_OPENING_NBYTES = 1024
"""Bytes reserved in a message that opens a session, beside the session's contexts."""


def open_model(
    file: ModelFile, config: ServerConfig, *, before_run: Callable[[], None] = lambda: None
) -> StepModel:
    """Opens a model's graphs.

    Raises `ModelLoadError` if the runtime rejects the model, or if the graph does not match the
    spec.
    """
    return StepModel(
        file,
        threads=config.threads,
        providers=config.providers,
        device=Device.parse(config.device),
        max_run_nbytes=config.max_step_bytes if file.data_dependent else None,
        before_run=before_run,
    )


def probed(model: StepModel, config: ServerConfig) -> Probe:
    """Probes an opened model. Raises `ModelLoadError` if the model can't be served."""
    return probe(
        model,
        max_batch_size=most_rows(model.spec, config),
        max_chunk=longest_chunk(model.spec, config),
        witnesses=witnesses(model.spec, config),
    )


def device_problem(device: str) -> str:
    """Returns why models can't run on a device; empty if they can."""
    try:
        Device.parse(device).require()
    except DeviceUnavailable as error:
        return str(error)
    return ""


def check_contexts(spec: ModelSpec, config: ServerConfig) -> None:
    """Raises `ModelLoadError` if no message could hold a session's contexts."""
    largest = config.max_message_bytes - _OPENING_NBYTES
    if spec.context_nbytes > largest:
        raise ModelLoadError(
            f"a session's contexts take {spec.context_nbytes} bytes; with max_message_bytes "
            f"{config.max_message_bytes}, allowed are {largest}"
        )
