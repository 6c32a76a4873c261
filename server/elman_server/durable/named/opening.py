"""Makes the keeper that a server's settings ask for."""

from elman_server.config import ServerConfig
from elman_server.durable.named.keeper import Keeper, Terms
from elman_server.durable.store.opening import OpeningError, open_store
from elman_server.errors import StartError
from elman_server.telemetry.metrics import Metrics


def open_keeper(config: ServerConfig, metrics: Metrics) -> Keeper | None:
    """None without a state store. Raises `StartError`."""
    if not config.state_store:
        return None
    try:
        store = open_store(config.state_store)
    except OpeningError as error:
        raise StartError(str(error)) from None
    terms = Terms(
        lease=config.session_lease, ttl=config.session_ttl, interval=config.checkpoint_interval
    )
    keeper = Keeper(store, terms, metrics.keeper(), go_on=config.store_outage == "continue")
    metrics.watch_keeper(
        sessions=lambda: keeper.sessions,
        waiting=lambda: keeper.waiting,
        down=lambda: keeper.down,
    )
    return keeper
