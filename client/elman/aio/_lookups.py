"""Lookups of models, for asyncio. Concurrent lookups of a model share a request."""

import asyncio

from elman._core.models import KnownModel, ModelCache, get_model, is_pinned
from elman._core.session.failures import failure_of
from elman.aio._servers import Servers
from elman.errors import ElmanError
from elman.v1 import inference_pb2 as pb


class Lookups:
    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._cache: ModelCache[asyncio.Task[KnownModel]] = ModelCache()

    async def get(self, request: pb.GetModelRequest) -> KnownModel:
        """Returns a model from the cache, or requests the model. Raises `ModelNotFound`."""
        if is_pinned(request):
            return await self._servers.ask(get_model(request))
        known = self._cache.get(request)
        if known is not None:
            return known
        fetch = self._cache.fetch(request)
        if fetch is None:
            fetch = asyncio.create_task(self.request(request))
            self._cache.add_fetch(request, fetch)
            fetch.add_done_callback(lambda _: self._cache.remove_fetch(request))
        try:
            return await asyncio.shield(fetch)
        except ElmanError as error:
            # Each caller raises an error of its own.
            raise failure_of(error)() from None

    async def request(self, request: pb.GetModelRequest) -> KnownModel:
        """Requests a model in any case. Raises `ModelNotFound`."""
        known = await self._servers.ask(get_model(request))
        self._cache.put(request, known)
        return known

    def forget(self, name: str) -> None:
        """Removes a model from the cache."""
        self._cache.forget(name)
