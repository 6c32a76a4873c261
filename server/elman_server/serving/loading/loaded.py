"""A model that passed its probe, and how much of it goes through one step."""

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
"""Of states that are read together: they are copied, and kept until their callers have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that passed its probe. Needs no event loop, so it can be made on any thread."""

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
        """Reads, opens and probes a model in this process, in which a file that is made to do harm
        does it: a server has a child do this. `before_run` is called before each of its steps.

        Raises `ModelLoadError`, which names the file and says why.
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
        except Exception as error:  # what numpy says to a spec that no machine has room for
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ModelLoadError(f"{source.path}: {said}") from error
        return LoadedModel(source=source, file=file, model=model, probe=found)

    def limits(self, config: ServerConfig) -> StepLimits:
        """How much of it goes through one step."""
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
        # Sessions that begin make the others wait for no longer than a step does.
        longest = max(
            found.cost.seconds(1, limits.longest_chunk),
            found.cost.seconds(limits.max_batch_size, 1),
        )
        return replace(
            limits,
            max_beginning=found.beginning.rows(longest, rows),
            max_reading=max(1, min(256, _READING_NBYTES // max(1, spec.state_bytes))),
        )
