"""docker-compose.yml holds to its schema and to the program's own configuration."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from elman_server.config import ServerConfig
from elman_server.workers import supervisor

PROMETHEUS = "deploy/prometheus/prometheus.yml"


@pytest.fixture
def services(load: Callable[[str], Any]) -> dict[str, Any]:
    services = load("docker-compose.yml")["services"]
    assert isinstance(services, dict)
    return services


@pytest.fixture
def config(services: dict[str, Any], configured: Callable[..., ServerConfig]) -> ServerConfig:
    return configured(services["elman"]["command"], services["elman"]["environment"])


def test_it_holds_to_the_compose_specification(root: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec"),
            str(root / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_is_built_here_and_has_its_bundled_models(
    services: dict[str, Any], config: ServerConfig
) -> None:
    assert services["elman"]["build"] == "."
    assert config.demo


def test_its_ports_are_published_on_this_machine_only(
    services: dict[str, Any], config: ServerConfig
) -> None:
    assert services["elman"]["ports"] == [
        f"127.0.0.1:{port}:{port}" for port in (config.port, config.metrics_port)
    ]


def test_its_health_check_is_a_command_of_the_program(
    services: dict[str, Any], config: ServerConfig, parse: Callable[..., click.Context]
) -> None:
    how, program, *args = services["elman"]["healthcheck"]["test"]
    assert (how, program) == ("CMD", "elman")
    assert parse(args).params["target"] == f"localhost:{config.port}"


def test_it_is_killed_only_after_it_would_have_killed_its_own_workers(
    services: dict[str, Any], config: ServerConfig
) -> None:
    patience = float(services["elman"]["stop_grace_period"].removesuffix("s"))
    assert patience > config.grace_period + supervisor._PATIENCE


def test_it_needs_neither_privileges_nor_a_writable_disk(services: dict[str, Any]) -> None:
    assert services["elman"]["read_only"] is True
    assert services["elman"]["cap_drop"] == ["ALL"]
    assert services["elman"]["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_starts_after_the_server_with_the_configuration_of_this_repository(
    services: dict[str, Any], root: Path
) -> None:
    prometheus = services["prometheus"]
    assert prometheus["depends_on"] == {"elman": {"condition": "service_healthy"}}
    assert f"./{PROMETHEUS}:/etc/prometheus/prometheus.yml:ro" in prometheus["volumes"]
    assert (root / PROMETHEUS).is_file()


def test_prometheus_scrapes_the_servers_metrics_port(
    services: dict[str, Any], config: ServerConfig, load: Callable[[str], Any]
) -> None:
    (job,) = load(PROMETHEUS)["scrape_configs"]
    # The default of metrics_path is /metrics, and the service's name is its host name.
    assert set(job) == {"job_name", "static_configs"}
    assert job["static_configs"] == [{"targets": [f"elman:{config.metrics_port}"]}]
    assert "elman" in services
