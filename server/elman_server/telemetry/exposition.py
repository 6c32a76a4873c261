"""`/metrics`: a registry over HTTP, and samples as plain values for other processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from elman_server.errors import StartError
from elman_server.telemetry.family import Family
from elman_server.telemetry.httpport import serving


def process_registry() -> CollectorRegistry:
    """Returns a new registry with Prometheus' standard metrics of a process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serves `/metrics` on separate threads and yields the port. Raises `StartError` if the port
    can't be bound."""
    with ExitStack() as stack:
        try:
            taken = stack.enter_context(serving(make_wsgi_app(registry), host, port))
        except OSError as error:
            raise StartError(f"metrics_port {port} on {host}: {error.strerror}") from None
        yield taken


def families(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Returns the current samples of a registry."""
    return tuple(
        Family(
            name=metric.name,
            kind=metric.type,
            help=metric.documentation,
            samples={
                (sample.name, tuple(sample.labels.items())): sample.value
                for sample in metric.samples
            },
        )
        for metric in registry.collect()
    )


def registry_of(read: Callable[[], Iterable[Family]]) -> CollectorRegistry:
    """Returns a registry whose samples `read` returns at each scrape."""
    registry = CollectorRegistry()
    registry.register(_FamilyCollector(read))
    return registry


class _FamilyCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for family in self._read():
            metric = Metric(family.name, family.help, family.kind)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
