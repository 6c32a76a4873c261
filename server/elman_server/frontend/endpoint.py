"""The endpoint: all services of the server behind a transport, including health and reflection."""

from elman_server.frontend.gate.gate import Gate
from elman_server.frontend.transport import Transport
from elman_server.frontend.wire import health, reflection
from elman_server.frontend.wire.health import HealthServicer
from elman_server.frontend.wire.reflection import ReflectionServicer
from elman_server.frontend.wire.servicer import SERVICE, InferenceServicer
from elman_server.serving.served import ServedModel

_OVERALL = ""


class Endpoint:
    """All services. Health reports the server under "" and the service's name, and each model under
    the model's name."""

    def __init__(self, servicer: InferenceServicer, gate: Gate, transport: Transport) -> None:
        self._servicer = servicer
        self._transport = transport
        self._health = HealthServicer(gate)
        services = (SERVICE, health.SERVICE, reflection.SERVICE)
        self._methods = [
            *servicer.methods(),
            *self._health.methods(),
            *ReflectionServicer(gate, services).methods(),
        ]

    async def start(self) -> int:
        """Starts serving and returns the port. Raises `RuntimeError` if the port can't be bound."""
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.NOT_SERVING)
        return await self._transport.start(self._methods)

    async def model_ready(self, name: str) -> None:
        self._health.set(name, health.SERVING)

    async def model_gone(self, name: str) -> None:
        self._health.set(name, health.NOT_SERVING)

    def detach(self, model: ServedModel) -> None:
        """Stops streams from opening sessions on an unloaded model."""
        self._servicer.detach(model)

    async def ready(self) -> None:
        for service in (_OVERALL, SERVICE):
            self._health.set(service, health.SERVING)

    def not_serving(self) -> None:
        """Reports NOT_SERVING for all services to health watchers. Can't be undone."""
        self._health.stop()

    async def stop(self, grace: float) -> None:
        """Waits for RPCs to end, and cancels the remaining RPCs after `grace` seconds. On return,
        the sessions of all RPCs have ended."""
        await self._transport.stop(grace)
        await self._servicer.cleaned_up()
