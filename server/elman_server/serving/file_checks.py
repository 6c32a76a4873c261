"""File checks: whether a loaded version's changed files hold a different network."""

import asyncio

import structlog

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.model.repository import ModelSource
from elman_server.serving.loading.loader import Loader
from elman_server.serving.served import ServedModel


class FileChecks:
    """Checks in progress. A check only logs: a loaded version never changes its network."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, model: ServedModel, config: ServerConfig) -> None:
        task = asyncio.create_task(self._check(model.source, model.file.fingerprint, config))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Cancels all checks."""
        for task in self._tasks:
            task.cancel()

    async def _check(self, source: ModelSource, loaded: str, config: ServerConfig) -> None:
        try:
            present = (await self._loader.read(source, config)).fingerprint
        except ModelLoadError:  # not a step model, or not completely written yet
            present = ""
        if present != loaded:
            structlog.get_logger("elman.server").warning(
                "model file replaced, the loaded one is served on; a new version needs a new "
                "number",
                model=source.name,
                version=source.version,
                loaded=loaded[:12],
                found=present[:12],
            )
