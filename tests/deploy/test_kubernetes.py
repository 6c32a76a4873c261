"""The manifests hold to Kubernetes' schemas, to one another and to the program's configuration."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from elman_server.config import ServerConfig

FOLDER = "deploy/kubernetes"
MANIFESTS = ("configmap", "deployment", "service")
OLDEST = "1.27"
"""The first Kubernetes whose gRPC probes are stable."""


@pytest.fixture
def manifest(load: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda name: load(f"{FOLDER}/{name}.yaml")


@pytest.fixture
def pod(manifest: Callable[[str], Any]) -> dict[str, Any]:
    pod = manifest("deployment")["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture
def config(
    container: dict[str, Any],
    manifest: Callable[[str], Any],
    configured: Callable[..., ServerConfig],
) -> ServerConfig:
    source, secret = container["envFrom"]
    assert secret["secretRef"] == {"name": "elman", "optional": True}
    assert source["configMapRef"]["name"] == manifest("configmap")["metadata"]["name"]
    return configured(container["args"], manifest("configmap")["data"])


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", MANIFESTS)
def test_each_manifest_holds_to_the_schema(
    name: str, version: str, manifest: Callable[[str], Any]
) -> None:
    kubernetes_validate.validate(manifest(name), version, strict=True)


def test_the_kustomization_holds_every_manifest_and_the_packages_version(
    manifest: Callable[[str], Any], root: Path, container: dict[str, Any]
) -> None:
    kustomization = manifest("kustomization")
    files = {path.name for path in (root / FOLDER).glob("*.yaml")}
    assert {*kustomization["resources"], "kustomization.yaml"} == files
    image = {"name": container["image"], "newTag": metadata.version("elman")}
    assert kustomization["images"] == [image]


def test_the_server_listens_to_the_pods_network(config: ServerConfig) -> None:
    assert config.host == "0.0.0.0"
    assert config.log_format == "json"


def test_the_containers_ports_are_the_servers(
    container: dict[str, Any], config: ServerConfig
) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": config.port, "metrics": config.metrics_port}


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_each_probe_asks_the_servers_health_over_grpc(
    name: str, container: dict[str, Any], config: ServerConfig
) -> None:
    assert container[name]["grpc"] == {"port": config.port}


def test_the_pod_is_killed_only_after_the_grace_period(
    pod: dict[str, Any], config: ServerConfig
) -> None:
    assert pod["terminationGracePeriodSeconds"] > config.grace_period


def test_the_service_is_headless_and_finds_the_pods_ports(
    manifest: Callable[[str], Any], container: dict[str, Any], config: ServerConfig
) -> None:
    service, deployment = manifest("service")["spec"], manifest("deployment")["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"] == deployment["template"]["metadata"]["labels"]
    ports = {port["name"]: port for port in service["ports"]}
    assert {name: port["port"] for name, port in ports.items()} == {
        "grpc": config.port,
        "metrics": config.metrics_port,
    }
    assert {port["targetPort"] for port in ports.values()} == {
        port["name"] for port in container["ports"]
    }


def test_the_pod_is_marked_for_scraping(
    manifest: Callable[[str], Any], config: ServerConfig
) -> None:
    annotations = manifest("deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(config.metrics_port),
        "prometheus.io/path": "/metrics",
    }


def test_the_pod_runs_as_the_images_user_and_without_privileges(
    pod: dict[str, Any], container: dict[str, Any], root: Path
) -> None:
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert f"USER {user}\n" in (root / "Dockerfile").read_text()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_the_image_starts_the_program_that_gets_the_arguments(
    container: dict[str, Any], root: Path
) -> None:
    assert f"ENTRYPOINT {json.dumps(['elman'])}\n" in (root / "Dockerfile").read_text()
    assert "command" not in container
