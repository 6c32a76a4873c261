"""Lookups of models, for threads. Concurrent lookups of a model share a request."""

from elman._core.models import KnownModel, ModelCache, get_model, is_pinned
from elman._core.session.failures import failure_of
from elman._core.session.operation import Failure
from elman._threads.monitor import Monitor, Waiters, wait
from elman._threads.servers import Servers
from elman.errors import ElmanError
from elman.v1 import inference_pb2 as pb

_RECHECK_SECONDS = 1.0
"""Seconds between two looks at another thread's request. A second interrupt of that thread may come
before it wakes the waiting threads."""


class _Fetch:
    """A request under way, made by the first thread. More threads wait for the answer."""

    __slots__ = ("done", "failure", "waiters")

    def __init__(self) -> None:
        self.done = False
        self.waiters: Waiters = []
        self.failure: Failure | None = None


class Lookups:
    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._monitor = Monitor()
        self._cache: ModelCache[_Fetch] = ModelCache()

    def get(self, request: pb.GetModelRequest) -> KnownModel:
        """Returns a model from the cache, or requests the model. Raises `ModelNotFound`."""
        if is_pinned(request):
            return self._servers.ask(get_model(request))
        known = self._cache.get(request)
        return known if known is not None else self._get(request)

    def request(self, request: pb.GetModelRequest) -> KnownModel:
        """Requests a model in any case. Raises `ModelNotFound`."""
        known = self._servers.ask(get_model(request))
        self._cache.put(request, known)
        return known

    def forget(self, name: str) -> None:
        """Removes a model from the cache."""
        self._cache.forget(name)

    def _get(self, request: pb.GetModelRequest) -> KnownModel:
        own = _Fetch()
        try:
            known = self._await_others(request, own)
            return known or self.request(request)
        except ElmanError as error:
            own.failure = failure_of(error)
            raise
        finally:
            # After an interrupt, there is neither a model nor a failure, and a waiting thread makes
            # the request. A second interrupt may end the cleanup anywhere after this line.
            own.done = True
            with self._monitor.lock:
                if self._cache.fetch(request) is own:
                    self._cache.remove_fetch(request)
                self._monitor.wake(own.waiters)

    def _await_others(self, request: pb.GetModelRequest, own: _Fetch) -> KnownModel | None:
        """Waits for the request of another thread. Returns None if the caller's own request is
        due."""
        while True:
            with self._monitor.lock:
                known = self._cache.get(request)
                fetch = self._cache.fetch(request)
                if known is not None:
                    return known
                if fetch is None or fetch.done:
                    self._cache.add_fetch(request, own)
                    return None
                waiter = self._monitor.enlist(fetch.waiters)
            try:
                wait(waiter, _RECHECK_SECONDS)
            finally:
                with self._monitor.lock:
                    self._monitor.returned(fetch.waiters, waiter)
            if fetch.failure:
                raise fetch.failure()
