"""A served model: its file, its probe, its engine, and the catalog of all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from elman_server import modelfile
from elman_server.admission import Admission
from elman_server.config import ServerConfig
from elman_server.elements import ElementCodec
from elman_server.engine.engine import Engine
from elman_server.engine.scheduler import Scheduler, StepLimits
from elman_server.errors import ModelLoadError, ModelNotFound
from elman_server.metrics import Gauges, Metrics, ModelMetrics
from elman_server.modelfile import ModelFile, ModelFileError
from elman_server.repository import ModelSource
from elman_server.runner.model import StepModel
from elman_server.runner.onnx import OnnxRunner
from elman_server.runner.probe import Probe, probe

_MAX_STEP_NBYTES = 64 * 1024 * 1024
"""What one step's outputs may take, so that a large vocabulary does not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that passed its probe. Needs no event loop, so it can be made on any thread."""

    source: ModelSource
    file: ModelFile
    model: StepModel
    probe: Probe

    @staticmethod
    def load(source: ModelSource, config: ServerConfig) -> "LoadedModel":
        """Raises `ModelLoadError`, which names the file and says why."""
        try:
            file = modelfile.read(source.path)
        except ModelFileError as error:
            raise ModelLoadError(str(error)) from error
        try:
            model = StepModel(file, threads=config.threads, providers=config.providers)
            found = probe(model, max_batch_size=config.max_batch_size, max_chunk=config.max_chunk)
        except ModelLoadError as error:
            raise ModelLoadError(f"{source.path}: {error}") from error
        except Exception as error:  # one model's trouble must not keep the others from serving
            structlog.get_logger("elman.server").exception("a model broke the loader")
            raise ModelLoadError(f"{source.path}: {type(error).__name__}: {error}") from error
        return LoadedModel(source=source, file=file, model=model, probe=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    source: ModelSource
    file: ModelFile
    codec: ElementCodec
    engine: Engine
    metrics: ModelMetrics

    @staticmethod
    def serve(
        loaded: LoadedModel, config: ServerConfig, admission: Admission, metrics: Metrics
    ) -> "ServedModel":
        """Starts an engine on the running event loop."""
        name, version = loaded.source.name, loaded.source.version
        runner = OnnxRunner(loaded.model)
        observer = metrics.model(name, version)
        engine = Engine(
            name=name,
            scheduler=Scheduler(_limits(loaded, config)),
            runner=runner,
            step_seconds=loaded.probe.cost.seconds,
            admission=admission,
            observer=observer,
        )
        metrics.watch(
            name,
            version,
            Gauges(
                sessions=lambda: engine.sessions,
                pending_elements=lambda: engine.pending,
                state_bytes=lambda: runner.state_nbytes,
                state_slots=lambda: engine.slots,
            ),
        )
        admission.watch(lambda: engine.backlog)
        engine.start()
        return ServedModel(
            source=loaded.source,
            file=loaded.file,
            codec=ElementCodec(loaded.file.spec.input),
            engine=engine,
            metrics=observer,
        )


def _limits(loaded: LoadedModel, config: ServerConfig) -> StepLimits:
    found = loaded.probe
    exact = not found.dependent_rows or config.allow_dependent_rows
    batched = exact and not found.batch_failure
    nbytes = loaded.file.spec.output_nbytes
    return StepLimits(
        max_batch_size=config.max_batch_size if batched else 1,
        max_step_elements=max(1, min(config.max_step_elements, _MAX_STEP_NBYTES // nbytes)),
        max_chunk=config.max_chunk,
        chunking=loaded.probe.chunking,
    )


class Catalog:
    """The models that are ready, by name and version."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}

    def add(self, model: ServedModel) -> None:
        self._models.setdefault(model.source.name, {})[int(model.source.version)] = model

    def get(self, name: str, version: str = "") -> ServedModel:
        """The newest version where none is named. Raises `ModelNotFound`."""
        versions = self._models.get(name)
        if versions is None:
            known = ", ".join(sorted(self._models)) or "none yet"
            raise ModelNotFound(f"model {name!r} is unknown; ready are: {known}")
        if not version:
            return versions[max(versions)]
        for number, model in versions.items():
            if version == str(number):
                return model
        known = ", ".join(map(str, sorted(versions)))
        raise ModelNotFound(f"version {version!r} of model {name!r} is unknown; ready are: {known}")

    def __iter__(self) -> Iterator[ServedModel]:
        """By name, then by version."""
        for _, versions in sorted(self._models.items()):
            for _, model in sorted(versions.items()):
                yield model
