"""`/metrics`: a registry over HTTP, and its samples as plain values for another process."""

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
from elman_server.telemetry.httpport import serving
from elman_server.workers.families import Family


def process_registry() -> CollectorRegistry:
    """A registry of its own, with what Prometheus' clients tell of every process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Answers `/metrics` on threads of its own, and says on which port. Raises `StartError` if
    that can't be had."""
    with ExitStack() as stack:
        try:
            taken = stack.enter_context(serving(make_wsgi_app(registry), host, port))
        except OSError as error:
            raise StartError(f"metrics_port {port} on {host}: {error.strerror}") from None
        yield taken


def families(registry: CollectorRegistry) -> tuple[Family, ...]:
    """All that a registry has to tell now."""
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
    """A registry that tells what `read` returns at each scrape."""
    registry = CollectorRegistry()
    registry.register(_Told(read))
    return registry


class _Told(Collector):
    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for family in self._read():
            metric = Metric(family.name, family.help, family.kind)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
