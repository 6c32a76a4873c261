"""Every setting has its bounds, and says so."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from elman_server.config import ConfigError, ServerConfig
from elman_server.durable.tickets.keys import new_key

BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "metrics_port": (0, 65_535),
    "reload_interval": (0, 1_000_000),
    "keep_versions": (0, 65_536),
    "version_grace": (0, 1_000_000),
    "step_timeout": (0, 1_000_000),
    "read_timeout": (0, 1_000_000),
    "max_state_bytes": (0, 2**50),
    "max_pending_bytes": (1, 2**40),
    "max_partial_bytes": (1, 2**40),
    "max_unread_bytes": (1, 2**40),
    "max_step_bytes": (2**20, 2**40),
    "workers": (1, 256),
    "max_sessions": (1, 2**32 - 1),
    "max_batch_size": (1, 65_536),
    "max_step_elements": (1, 65_536),
    "max_chunk": (1, 65_536),
    "max_pending_elements": (1, 2**32 - 1),
    "max_context_bytes": (1, 2**40),
    "max_connections": (1, 2**30),
    "max_concurrent_streams": (1, 2**30),
    "max_calls": (1, 2**30),
    "max_peer_calls": (1, 2**30),
    "max_call_rate": (0.1, 1_000_000_000),
    "max_open_rate": (0.1, 1_000_000_000),
    "max_unary_bytes": (1, 2**40),
    "window": (1, 2**32 - 1),
    "max_message_bytes": (4096, 2**31 - 1),
    "retry_after": (0, 1_000_000),
    "grace_period": (0, 1_000_000),
    "max_connection_age": (0, 1_000_000),
    "park_after": (0, 1_000_000),
    "ticket_lifetime": (1, 315_360_000),
    "min_ticket_elements": (1, 2**32 - 1),
    "min_ticket_seconds": (0.001, 1_000_000),
    "session_lease": (0.1, 3600),
    "session_ttl": (1, 315_360_000),
    "checkpoint_interval": (0.01, 3600),
    "keepalive_time": (1, 1_000_000),
    "max_model_bytes": (1, 2**31 - 1),
    "load_timeout": (0.1, 1_000_000),
    "max_load_bytes": (0, 2**50),
    "threads": (1, 1024),
}
ENDS = [(name, value) for name, ends in BOUNDS.items() for value in ends]


def config(**values: Any) -> ServerConfig:
    return ServerConfig(**{"demo": True, **values})


@pytest.mark.parametrize(("name", "value"), ENDS)
def test_a_bound_itself_is_allowed(name: str, value: float) -> None:
    assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("name", BOUNDS)
def test_below_the_lower_bound_is_refused(name: str) -> None:
    low, high = BOUNDS[name]
    with pytest.raises(ConfigError) as caught:
        config(**{name: low - 1})
    assert str(caught.value) == f"{name} is {low - 1}; allowed is {low} to {high}"


@pytest.mark.parametrize("name", BOUNDS)
def test_above_the_upper_bound_is_refused(name: str) -> None:
    low, high = BOUNDS[name]
    with pytest.raises(ConfigError) as caught:
        config(**{name: high + 1})
    assert str(caught.value) == f"{name} is {high + 1}; allowed is {low} to {high}"


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(ServerConfig) if field.type is float]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError):
        config(**{name: value})


def test_every_number_has_bounds() -> None:
    numbers = {
        field.name for field in dataclasses.fields(ServerConfig) if field.type in (int, float)
    }
    assert numbers == BOUNDS.keys()


def test_there_must_be_something_to_serve() -> None:
    with pytest.raises(ConfigError, match="name a repository or a model, or use --demo"):
        ServerConfig()
    assert ServerConfig(repository=Path("models")).repository == Path("models")


def test_there_must_be_a_provider() -> None:
    with pytest.raises(ConfigError, match=r"^providers is empty; name at least one$"):
        config(providers=())


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices(device: str) -> None:
    assert config(device=device).device == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "CPU", "cpu:1", "cuda:1\n"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"^device is '.*'; allowed are cpu, cuda and cuda:N$"):
        config(device=device)


def test_a_device_has_a_provider_of_its_own() -> None:
    with pytest.raises(
        ConfigError, match=r"^device is cuda, which has .* leave providers \(Other\) out$"
    ):
        config(device="cuda", providers=("Other",))


def test_a_store_needs_the_key_that_seals_what_is_in_it() -> None:
    with pytest.raises(ConfigError, match="ticket_key is not"):
        config(state_store="file:/tmp/store")
    assert config(state_store="file:/tmp/store", ticket_key=(new_key(),)).state_store
