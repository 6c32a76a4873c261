"""How long it takes until a server serves, and until a program has imported `elman`."""

import json
import subprocess
import sys
import time
from statistics import median

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks.performance.run import Start

_SERVE = (
    *(sys.executable, "-c", "from elman.cli import main; main()", "serve", "--demo"),
    *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
)
_IMPORT = """
import time
begun = time.perf_counter()
import elman
elman.connect  # what that needs is imported only now
print(time.perf_counter() - begun)
"""
_IMPORTS = 3
_PATIENCE = 30.0


def measure() -> Start:
    return Start(
        serving=_seconds_to_serving(),
        importing=median(_seconds_to_import() for _ in range(_IMPORTS)),
    )


def _seconds_to_serving() -> float:
    """From the start of `elman serve --demo` until its health is SERVING, as a client sees it."""
    begun = time.perf_counter()
    with subprocess.Popen(_SERVE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                entry = json.loads(line)
                if entry.get("event") == "serving":
                    _check(f"127.0.0.1:{entry['grpc_port']}")
                    return time.perf_counter() - begun
        finally:
            server.kill()
    raise RuntimeError("elman serve --demo ended")


def _check(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        check: grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]
        check = HealthStub(channel).Check  # type: ignore[attr-defined]
        answer = check(HealthCheckRequest(), timeout=_PATIENCE, wait_for_ready=True)
    if answer.status != HealthCheckResponse.SERVING:
        raise RuntimeError("elman serve --demo says that it serves, and its health does not")


def _seconds_to_import() -> float:
    """In a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
    )
    return float(done.stdout)
