"""Creation of the state store and the lease keeper from a server's settings."""

from elman_server.config import ServerConfig
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.durable.named.terms import Terms
from elman_server.durable.store.interface import StateStore
from elman_server.durable.store.opening import OpeningError, open_store
from elman_server.errors import StartError
from elman_server.process.clock import Clock
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import NAMED_SESSIONS, NAMED_SESSIONS_WAITING, STORE, STORE_DOWN


def open_state_store(config: ServerConfig) -> StateStore | None:
    """Returns the configured state store, or None without one. Raises `StartError`."""
    if not config.state_store:
        return None
    try:
        return open_store(config.state_store)
    except OpeningError as error:
        raise StartError(str(error)) from None


def new_lease_keeper(
    store: StateStore, config: ServerConfig, metrics: Metrics, clock: Clock
) -> LeaseKeeper:
    terms = Terms(
        lease_seconds=config.session_lease,
        ttl=config.session_ttl,
        interval=config.checkpoint_interval,
    )
    counts = metrics.labels(STORE)
    lease_keeper = LeaseKeeper(
        store,
        terms,
        counts,
        go_on=config.store_outage == "continue",
        clock=clock.since_boot,
    )
    counts.watch(NAMED_SESSIONS, lambda: lease_keeper.sessions)
    counts.watch(NAMED_SESSIONS_WAITING, lambda: lease_keeper.waiting)
    counts.watch(STORE_DOWN, lambda: lease_keeper.down)
    return lease_keeper
