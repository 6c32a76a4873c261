"""Served models, each with its file and engine, and their catalog."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import inf

from elman_server.config import ServerConfig
from elman_server.durable.tickets.content import Origin
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.tickets import Tickets
from elman_server.engine.admission import Admission, Waiting
from elman_server.engine.engine import Engine, EngineSettings
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.snapshot import Cadence
from elman_server.errors import (
    ModelNotFound,
    ModelUnavailable,
    TicketRejected,
)
from elman_server.model.contexts import ContextCodec
from elman_server.model.elements import ElementCodec
from elman_server.model.modelfile import ModelFile
from elman_server.model.repository import ModelSource
from elman_server.process.clock import Clock
from elman_server.runner.onnx import OnnxRunner
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.telemetry import table
from elman_server.telemetry.metrics import LabelledMetrics, Metrics
from elman_server.telemetry.observer import EngineObserver


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What all served models share."""

    config: ServerConfig
    admission: Admission
    metrics: Metrics
    keyring: Keyring
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded version with its running engine."""

    source: ModelSource
    file: ModelFile
    codec: ElementCodec
    contexts: ContextCodec
    tickets: Tickets
    engine: Engine
    metrics: LabelledMetrics
    unwatch: Callable[[], None]
    """Removes the model from the metrics and from admission."""

    @staticmethod
    def serve(
        loaded: LoadedModel,
        resources: Resources,
        stuck: Callable[[bool], None] = lambda stuck: None,
    ) -> "ServedModel":
        """Starts an engine on the running event loop.

        `stuck` is called with True when a step takes too long and can't be ended, so the model
        accepts no more sessions, and with False when the step ends after all.
        """
        config, admission = resources.config, resources.admission
        name, version = loaded.source.name, loaded.source.version
        runner = OnnxRunner(loaded.model, begins_together=loaded.probe.beginning.together)
        counts = resources.metrics.labels(table.MODEL, name, version)
        codec = ElementCodec(loaded.file.spec.input)
        engine = Engine(
            settings=EngineSettings(
                name=name,
                step_timeout=config.step_timeout or inf,
                park_after=config.park_after or inf,
                element_nbytes=codec.nbytes,
            ),
            scheduler=Scheduler(loaded.limits(config), loaded.probe.cost.seconds),
            runner=runner,
            estimates=Estimates(
                step_seconds=loaded.probe.cost.seconds,
                init_seconds=loaded.probe.beginning.seconds,
                state_nbytes=loaded.file.spec.state_bytes,
                data_dependent=bool(loaded.file.data_dependent),
            ),
            admission=admission,
            observer=EngineObserver(counts),
            stuck=stuck,
        )
        counts.watch(table.SESSIONS, lambda: engine.sessions)
        counts.watch(table.PENDING_ELEMENTS, lambda: engine.pending + engine.untaken)
        counts.watch(table.STATE_BYTES, lambda: runner.state_nbytes)
        counts.watch(table.STATE_SLOTS, lambda: engine.slots)
        unwatch = admission.watch(
            Waiting(
                elements=lambda: engine.backlog,
                element_nbytes=engine.element_nbytes,
                context_nbytes=lambda: engine.context_nbytes,
            )
        )
        engine.start()

        def unwatch_all() -> None:
            unwatch()
            counts.unwatch()

        return ServedModel(
            source=loaded.source,
            file=loaded.file.without_graphs(),
            codec=codec,
            contexts=ContextCodec(loaded.file.spec.contexts),
            tickets=Tickets(
                Origin(model=name, version=version, fingerprint=loaded.file.fingerprint),
                loaded.file.spec,
                keyring=resources.keyring,
                clock=resources.clock.wall,
                lifetime=config.ticket_lifetime,
                # A checkpoint is a ticket and must stay valid for as long as it is stored.
                named_lifetime=config.session_ttl + config.checkpoint_interval,
                # A request that opens a session with a ticket must fit into a message, too.
                max_nbytes=config.max_message_bytes // 2,
                least=Cadence(
                    elements=config.min_ticket_elements, seconds=config.min_ticket_seconds
                ),
            ),
            engine=engine,
            metrics=counts,
            unwatch=unwatch_all,
        )

    async def stop(self) -> None:
        """Stops the engine and releases the resources of `serve`. All sessions must have ended."""
        self.unwatch()
        await self.engine.stop()

    def __str__(self) -> str:
        return f"version {self.source.version} of model {self.source.name!r}"


class Catalog:
    """Loaded models, by name and version.

    A version that is not current accepts only sessions that name the version. So a session that
    began on a version can continue there.
    """

    def __init__(self) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}
        self._current: Collection[ModelSource] = ()
        self._expected: Collection[ModelSource] = ()

    def add(self, model: ServedModel) -> None:
        """Adds a model and makes it current."""
        self._models.setdefault(model.source.name, {})[int(model.source.version)] = model
        self._current = {*self._current, model.source}

    def remove(self, model: ServedModel) -> None:
        """Removes a model, so lookups no longer find it."""
        name, version = model.source.name, int(model.source.version)
        del self._models[name][version]
        if not self._models[name]:
            del self._models[name]
        self._current = {source for source in self._current if source != model.source}

    def update(
        self, *, current: Collection[ModelSource], expected: Collection[ModelSource]
    ) -> None:
        """Sets which loaded versions are current, and which versions are about to load."""
        self._current = current
        self._expected = expected

    def get(self, name: str, version: str = "") -> ServedModel:
        """Returns a version of a model; by default the newest current version.

        Raises `ModelUnavailable` if the version is not loaded yet, and `ModelNotFound` if the
        version is unknown or no longer served.
        """
        loaded = self._models.get(name, {})
        for number, model in sorted(loaded.items(), reverse=True):
            if version == str(number) if version else model.source in self._current:
                return model
        if any(each.name == name and version in ("", each.version) for each in self._expected):
            which = f"version {version} of model {name!r}" if version else f"model {name!r}"
            raise ModelUnavailable(f"{which} is not loaded yet")
        if not loaded:
            known = ", ".join(sorted(self._models)) or "none yet"
            raise ModelNotFound(f"model {name!r} is unknown; ready are: {known}")
        known = ", ".join(map(str, sorted(loaded)))
        if not version:
            raise ModelNotFound(f"model {name!r} is no longer served; it finishes with: {known}")
        raise ModelNotFound(f"version {version!r} of model {name!r} is unknown; ready are: {known}")

    def whichever(self, name: str) -> ServedModel:
        """Returns any version of a model, current or not. Raises as `get` does."""
        loaded = self._models.get(name)
        return next(iter(loaded.values())) if loaded else self.get(name)

    def fingerprinted(self, name: str, fingerprint: str) -> ServedModel:
        """Returns the version of a model with a fingerprint. Raises `TicketRejected`."""
        versions = self._models.get(name, {}).values()
        for model in versions:
            if model.file.fingerprint == fingerprint:
                return model
        raise TicketRejected(
            f"the ticket is of model {name!r} with fingerprint {fingerprint[:12]!r}; ready are: "
            + ", ".join(repr(model.file.fingerprint[:12]) for model in versions),
            reason="fingerprint",
        )

    def current(self) -> Iterator[ServedModel]:
        """Iterates over the current models, by name, then by version."""
        return (model for model in self if model.source in self._current)

    def __iter__(self) -> Iterator[ServedModel]:
        """Iterates over all loaded models, by name, then by version."""
        for _, versions in sorted(self._models.items()):
            for _, model in sorted(versions.items()):
                yield model
