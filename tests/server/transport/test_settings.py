"""gRPC's settings are chosen before it is loaded, and by the environment if that has chosen."""

import os
import subprocess
import sys

import pytest

from elman_server.transport.settings import POLL_THEMSELVES, VARIABLE, known

PROGRAM = f"""
import sys
import elman.cli, elman_server.cli.serve
assert "grpc" not in sys.modules
import elman_server.server, os
print(os.environ.get("{VARIABLE}"))
"""


@pytest.mark.parametrize(
    ("environment", "chosen"), [({}, POLL_THEMSELVES), ({VARIABLE: "-theirs"}, "-theirs")]
)
def test_a_server_chooses_what_its_environment_leaves_open(
    environment: dict[str, str], chosen: str
) -> None:
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**others, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [chosen]


@pytest.mark.parametrize(
    ("grpcio", "is_known"),
    [("1.66.2", True), ("1.85.1", True), ("1.86.0rc1", False), ("2.0.0", False)],
)
def test_a_version_that_was_not_tried_is_left_alone(grpcio: str, is_known: bool) -> None:
    assert known(grpcio) is is_known
