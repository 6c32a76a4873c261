"""Who may know whom: the arrows between the packages, and what each may load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "elman": ROOT / "client" / "elman",
    "elman_server": ROOT / "server" / "elman_server",
    "elman_export": ROOT / "export" / "elman_export",
}
GENERATED = "elman.v1"
DOOR = "elman_server.runner.ort"
HEAVY = {"torch", "onnx", "onnxruntime", "prometheus_client", "click", "rich"}


def modules(package: str) -> dict[str, Path]:
    """The handwritten modules of a package by their full names."""
    root = PACKAGES[package]
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not within(name, GENERATED):
            found[name] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(module: str, path: Path) -> Iterator[str]:
    """Full names of what a module imports anywhere, but for type checkers alone."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _running(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, [base, node.module or ""]))
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            yield from _running(child)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def importers(package: str, *targets: str) -> set[str]:
    """The modules of a package that import one of the targets."""
    return {
        module
        for module, path in modules(package).items()
        if any(within(name, target) for name in imports(module, path) for target in targets)
    }


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after a statement."""
    return {name.partition(".")[0] for name in modules_loaded_by(statement)}


def modules_loaded_by(statement: str) -> set[str]:
    """Full names of the modules that a fresh interpreter holds after a statement."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    return set(json.loads(output.splitlines()[-1]))


ALL = [
    (module, path)
    for package in PACKAGES
    for module, path in modules(package).items()
    if path.read_text()
]


def test_there_are_modules_to_look_at() -> None:
    assert {module.partition(".")[0] for module, _ in ALL} == set(PACKAGES)


# Between the packages.


def test_the_sdk_knows_neither_the_server_nor_the_export() -> None:
    assert importers("elman", "elman_server", "elman_export") == set()


def test_of_the_sdk_the_server_knows_the_wire_alone() -> None:
    sdk = {name for name in modules("elman") if name != "elman"}
    assert {
        module
        for module in importers("elman_server", *sdk)
        # The program is one, whichever package a part of it lies in.
        if not within(module, "elman_server.cli") and module != "elman_server.__main__"
    } == set()


def test_the_server_does_not_know_the_export() -> None:
    assert importers("elman_server", "elman_export") == set()


def test_nobody_but_the_export_knows_torch_or_onnx() -> None:
    assert importers("elman", "torch", "onnx") == set()
    assert importers("elman_server", "torch", "onnx") == set()


@pytest.mark.parametrize("statement", ["import elman", "import elman.aio"])
def test_importing_the_sdk_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "elman" in loaded
    assert loaded & (HEAVY | {"elman_server", "elman_export"}) == set()


@pytest.mark.parametrize(
    "statement", ["import elman_server.server", "import elman_server.cli.serve"]
)
def test_the_server_loads_neither_torch_nor_onnx(statement: str) -> None:
    assert loaded_by(statement) & {"torch", "onnx", "elman_export"} == set()


def test_every_module_of_the_server_can_be_imported_without_torch_or_onnx() -> None:
    names = [name for name in modules("elman_server") if not name.endswith("__main__")]
    assert loaded_by(f"import {', '.join(names)}") & {"torch", "onnx", "elman_export"} == set()


# Inside the SDK.


@pytest.mark.parametrize(
    "module", [module for module in modules("elman") if within(module, "elman._core")]
)
def test_the_core_of_the_sdk_knows_neither_grpc_nor_threads_nor_event_loops(module: str) -> None:
    top = {name.partition(".")[0] for name in imports(module, modules("elman")[module])}
    assert top & {"grpc", "asyncio", "threading", "concurrent", "queue", "socket"} == set()
    own = {name for name in imports(module, modules("elman")[module]) if within(name, "elman")}
    around = ("elman._threads", "elman.aio", "elman._process", "elman.v1.inference_pb2_grpc")
    assert {name for name in own if any(within(name, outer) for outer in around)} == set()


def test_of_the_sdk_the_wire_knows_nothing_but_the_wire() -> None:
    own = ("elman._core", "elman._threads", "elman.aio", "elman._process")
    knowing = {module for module in importers("elman", *own) if within(module, "elman._wire")}
    assert knowing == set()


def test_neither_shell_of_the_sdk_knows_the_other() -> None:
    assert {name for name in importers("elman", "elman.aio") if "._threads" in name} == set()
    assert {name for name in importers("elman", "elman._threads") if ".aio" in name} == set()


def test_of_the_server_the_export_knows_what_a_step_model_is() -> None:
    """Also the switch of ONNX Runtime's telemetry, and limits on the process of a foreign file."""
    rooms = ("elman_server.model", "elman_server.runner.ort", "elman_server.process")
    assert {
        name
        for module, path in modules("elman_export").items()
        for name in imports(module, path)
        if within(name, "elman_server") and not any(within(name, room) for room in rooms)
    } == set()


def test_importing_what_a_step_model_is_loads_nothing_that_serves() -> None:
    names = [name for name in modules("elman_server") if within(name, "elman_server.model")]
    loaded = modules_loaded_by(f"import {', '.join(names)}")
    assert set(names) <= loaded
    assert {name.partition(".")[0] for name in loaded} & {"grpc", "structlog", *HEAVY} == set()
    assert {
        name
        for name in loaded
        if within(name, "elman_server") and not within(name, "elman_server.model")
    } == {"elman_server", "elman_server.errors"}


# Inside the server.


def test_only_the_transport_knows_grpc() -> None:
    outside = {
        module
        for module in importers("elman_server", "grpc")
        if not within(module, "elman_server.frontend.grpcio")
    }
    # `elman health` asks another process; it is a client.
    assert outside == {"elman_server.cli.health"}


def test_only_the_wire_folder_knows_the_wire() -> None:
    assert {
        module
        for module in importers("elman_server", GENERATED, "grpc_health", "grpc_reflection")
        if not within(module, "elman_server.frontend.wire")
    } == {"elman_server.cli.health"}


def test_only_the_wire_folder_and_onnx_files_know_protobuf() -> None:
    assert {
        module
        for module in importers("elman_server", "google.protobuf")
        if not within(module, "elman_server.frontend.wire")
    } == {"elman_server.model.modelfile", "elman_server.model.graph.onnxproto"}


def test_the_wire_knows_no_transport() -> None:
    assert {
        module
        for module in importers("elman_server", "elman_server.frontend.grpcio")
        if not within(module, "elman_server.frontend.grpcio")
    } == {"elman_server.server"}


_CONNECTION = ("backlog", "connection", "frame", "naming", "opening", "pushing", "slices")
PURE = {
    *(f"elman_server.frontend.{name}" for name in ("caller", "gate.call_limits", "status")),
    *(f"elman_server.frontend.connection.{name}" for name in _CONNECTION),
    *(f"elman_server.frontend.connection.{name}" for name in ("ticketing", "withheld")),
}


@pytest.mark.parametrize("module", sorted(PURE))
def test_a_connection_is_pure(module: str) -> None:
    """No event loop, no threads, no clock, no log; of the front only what is pure itself."""
    known = set(imports(module, modules("elman_server")[module]))
    outside = {"asyncio", "grpc", "google", "elman", "socket", "structlog", "threading", "time"}
    assert {name.partition(".")[0] for name in known} & outside == set()
    assert {
        name
        for name in known
        if name.startswith("elman_server.frontend.") and not any(within(name, p) for p in PURE)
    } == set()


def test_only_the_runner_knows_onnxruntime() -> None:
    assert importers("elman_server", "onnxruntime", DOOR) == {DOOR, "elman_server.runner.runtime"}


@pytest.mark.parametrize("folder", ["client", "server", "export", "benchmarks", "examples"])
def test_onnxruntime_is_imported_where_its_telemetry_is_switched_off_and_nowhere_else(
    folder: str,
) -> None:
    """An import that comes before the switch has written a device id when the switch comes."""
    assert {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if any(within(name, "onnxruntime") for name in imports(path.stem, path))
    } <= {"server/elman_server/runner/ort.py"}


def test_only_the_metrics_know_prometheus() -> None:
    known = importers("elman_server", "prometheus_client")
    assert known == {"elman_server.telemetry.collectors", "elman_server.telemetry.exposition"}


def test_the_telemetry_knows_of_the_server_the_engines_words_alone() -> None:
    """No workers, no models, no front: others merge, name and count."""
    words = (
        "elman_server.errors",
        "elman_server.engine.sessions.ending",
        "elman_server.engine.stats",
    )
    assert {
        name
        for module, path in modules("elman_server").items()
        if within(module, "elman_server.telemetry")
        for name in imports(module, path)
        if within(name, "elman_server")
        and not any(within(name, each) for each in ("elman_server.telemetry", *words))
    } == set()


def test_the_supervisor_of_workers_loads_nothing_that_serves() -> None:
    loaded = loaded_by("import elman_server.workers.supervisor")
    assert "elman_server" in loaded
    assert loaded & {"grpc", "numpy", "onnxruntime", "elman"} == set()


def test_only_the_redis_store_knows_redis() -> None:
    assert importers("elman_server", "redis") == {"elman_server.durable.store.redis"}


def test_a_server_without_a_redis_store_loads_no_redis() -> None:
    loaded = loaded_by("import elman_server.durable.store.opening; import elman_server.server")
    assert "redis" not in loaded


def test_the_state_store_knows_nothing_of_the_server() -> None:
    known = {
        name
        for module, path in modules("elman_server").items()
        if within(module, "elman_server.durable.store")
        for name in imports(module, path)
        if within(name, "elman_server")
    }
    assert {name for name in known if not within(name, "elman_server.durable.store")} == set()


def test_only_the_horizons_plot_knows_matplotlib() -> None:
    assert importers("elman_server", "matplotlib") == {"elman_server.inspection.horizon.plot"}


def test_only_the_keyring_knows_how_to_encrypt() -> None:
    assert importers("elman_server", "cryptography") == {"elman_server.durable.tickets.keyring"}


def test_only_the_program_knows_click_and_rich() -> None:
    assert {
        module
        for module in importers("elman_server", "click", "rich")
        if not within(module, "elman_server.cli")
    } == set()


SHELL = {
    f"elman_server.engine.{name}"
    for name in ("engine", "executor", "parking", "step_loop", "worker")
}
CORE = {
    module for module in modules("elman_server") if within(module, "elman_server.engine")
} - SHELL


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_of_the_engine_is_pure(module: str) -> None:
    """No event loop, no threads, no clock, no log, nothing of what is around the engine."""
    path = modules("elman_server")[module]
    top = {name.partition(".")[0] for name in imports(module, path)}
    containers = {
        "bisect",
        "collections",
        "contextlib",
        "dataclasses",
        "enum",
        "functools",
        "itertools",
        "typing",
        "weakref",
    }
    allowed = {*containers, "math", "numpy", "elman_server"}
    assert top - allowed == set()
    own = {name for name in imports(module, path) if within(name, "elman_server")}
    # Admission refuses sessions in the server's own words.
    words = {"elman_server.errors"} if module == "elman_server.engine.admission" else set()
    assert {
        name
        for name in own
        if not within(name, "elman_server.engine") and not any(within(name, word) for word in words)
    } == set()


def test_the_core_of_the_engine_is_there() -> None:
    assert {
        f"elman_server.engine.{name}" for name in ("scheduler", "sessions.session", "jobs.batch")
    } <= CORE


def test_the_engine_knows_nothing_of_those_who_call_it() -> None:
    callers = (
        "elman_server.durable",
        "elman_server.frontend",
        "elman_server.serving",
        "elman_server.telemetry",
    )
    assert {
        module
        for module in importers("elman_server", *callers)
        if within(module, "elman_server.engine") or within(module, "elman_server.runner")
    } == set()


def test_the_engine_knows_no_runner() -> None:
    """It holds the port, `elman_server.engine.jobs.runner`."""
    known = importers("elman_server", "elman_server.runner")
    assert {module for module in known if within(module, "elman_server.engine")} == set()


# Everywhere.


def _arrows(package: str) -> dict[str, set[str]]:
    """Each module of a package, with the modules that it imports, also for type checkers alone."""
    found = modules(package)
    arrows: dict[str, set[str]] = {}
    for module, path in found.items():
        names: set[str] = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module} has a relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                # A module that is named in full is the file; otherwise the package is.
                names |= (inner & found.keys()) or {node.module or ""}
        arrows[module] = (names & found.keys()) - {module}
    return arrows


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_one_another_in_a_circle(package: str) -> None:
    arrows = _arrows(package)
    while free := {module for module, known in arrows.items() if not known & arrows.keys()}:
        arrows = {module: known for module, known in arrows.items() if module not in free}
    # What is left is a circle, or imports one.
    assert arrows == {}


@pytest.mark.parametrize(("module", "path"), ALL, ids=[module for module, _ in ALL])
def test_every_module_says_what_it_is(module: str, path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{module} has no docstring"
