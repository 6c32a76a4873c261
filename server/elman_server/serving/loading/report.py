"""Log messages about a loaded model."""

import structlog

from elman_server.config import ServerConfig
from elman_server.serving.loading.loaded import LoadedModel


def log_ready(loaded: LoadedModel, config: ServerConfig) -> None:
    """Logs the results of the probe."""
    log = structlog.get_logger("elman.server")
    name, version = loaded.source.name, loaded.source.version
    limits = loaded.limits(config)
    log.info(
        "model ready",
        model=name,
        version=version,
        device=str(loaded.model.device),
        fingerprint=loaded.file.fingerprint[:12],
        chunking=loaded.probe.chunking.value,
        max_batch_size=limits.max_batch_size,
        max_chunk=limits.longest_chunk,
        state_bytes=loaded.file.spec.state_bytes,
    )
    if loaded.probe.batch_failure and loaded.file.spec.batched:
        log.warning(
            "served unbatched", model=name, version=version, found=loaded.probe.batch_failure
        )
    if loaded.file.data_dependent:
        log.info(
            "steps take as long as elements say, none runs on the event loop",
            model=name,
            version=version,
            found=loaded.file.data_dependent,
        )
    if loaded.probe.dependent_rows:
        log.warning(
            "rows of a batch affect one another; "
            + (
                "batched all the same, as configured"
                if config.allow_dependent_rows
                else "served unbatched"
            ),
            model=name,
            version=version,
            found=loaded.probe.dependent_rows,
        )
