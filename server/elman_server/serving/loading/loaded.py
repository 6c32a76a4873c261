"""Loaded models: probed step models with their step limits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from elman_server.config import ServerConfig
from elman_server.engine.limits import StepLimits
from elman_server.errors import ModelLoadError
from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFile, ModelFileError
from elman_server.model.repository import ModelSource
from elman_server.runner.model import StepModel
from elman_server.runner.probe import Probe
from elman_server.runner.runtime import one_line
from elman_server.serving.loading import probing
from elman_server.serving.loading.bounds import longest_chunk, most_elements, most_rows

_READING_NBYTES = 4 * 1024 * 1024
"""Bytes of states read in a single batch. The copies are kept until delivered to their callers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with a passed probe. Needs no event loop, so any thread can create it."""

    source: ModelSource
    file: ModelFile
    model: StepModel
    probe: Probe

    @staticmethod
    def load(
        source: ModelSource,
        config: ServerConfig,
        *,
        before_run: Callable[[], None] = lambda: None,
    ) -> "LoadedModel":
        """Reads, opens and probes a model in this process.

        A malicious file can harm this process, so a server calls `load` only in a child process.
        `before_run` is called before each run of the model. Raises `ModelLoadError` with the file's
        name and the reason.
        """
        try:
            file = modelfile.read(source.path, max_bytes=config.max_model_bytes)
        except ModelFileError as error:
            raise ModelLoadError(str(error)) from error
        try:
            probing.check_contexts(file.spec, config)
            model = probing.open_model(file, config, before_run=before_run)
            found = probing.probed(model, config)
        except ModelLoadError as error:
            raise ModelLoadError(f"{source.path}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:  # for example numpy's error for a spec too large for any memory
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ModelLoadError(f"{source.path}: {said}") from error
        return LoadedModel(source=source, file=file, model=model, probe=found)

    def limits(self, config: ServerConfig) -> StepLimits:
        """Returns the limits of a step, from the probe and the settings."""
        found, spec = self.probe, self.file.spec
        exact = not found.dependent_rows or config.allow_dependent_rows
        batched = exact and not found.batch_failure
        rows = most_rows(spec, config)
        limits = StepLimits(
            max_batch_size=rows if batched else 1,
            max_step_elements=most_elements(spec, config),
            max_chunk=longest_chunk(spec, config),
            chunking=found.chunking,
        )
        # A batch of new sessions may delay other sessions by no more than the longest step.
        longest = max(
            found.cost.seconds(1, limits.longest_chunk),
            found.cost.seconds(limits.max_batch_size, 1),
        )
        return replace(
            limits,
            max_init_batch_size=found.beginning.rows(longest, rows),
            max_capture_batch_size=max(1, min(256, _READING_NBYTES // max(1, spec.state_bytes))),
        )
