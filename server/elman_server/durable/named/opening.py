"""Creation of the lease keeper from a server's settings."""

from elman_server.config import ServerConfig
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.opening import OpeningError, open_store
from elman_server.errors import StartError
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import NAMED_SESSIONS, NAMED_SESSIONS_WAITING, STORE, STORE_DOWN


def open_lease_keeper(config: ServerConfig, metrics: Metrics) -> LeaseKeeper | None:
    """Returns a keeper, or None without a state store. Raises `StartError`."""
    if not config.state_store:
        return None
    try:
        store = open_store(config.state_store)
    except OpeningError as error:
        raise StartError(str(error)) from None
    terms = Terms(
        lease_seconds=config.session_lease,
        ttl=config.session_ttl,
        interval=config.checkpoint_interval,
    )
    counts = metrics.labels(STORE)
    lease_keeper = LeaseKeeper(store, terms, counts, go_on=config.store_outage == "continue")
    counts.watch(NAMED_SESSIONS, lambda: lease_keeper.sessions)
    counts.watch(NAMED_SESSIONS_WAITING, lambda: lease_keeper.waiting)
    counts.watch(STORE_DOWN, lambda: lease_keeper.down)
    return lease_keeper
