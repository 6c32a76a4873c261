"""Settings of all tests."""

import os
import signal
import tempfile

import pytest
import structlog
from hypothesis import settings

# Before any test imports ONNX Runtime: its telemetry is off, here and in all child processes.
import elman_server.runner.ort  # noqa: F401

# A shell that runs the tests in the background ignores these signals for them, and so would the
# servers and clients that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# How long an example takes says more about the machine than about the code.
settings.register_profile("elman", deadline=None)
settings.load_profile("elman")

# Where servers keep what outlives them: not the home of whoever runs the tests.
_STATE = tempfile.TemporaryDirectory(prefix="elman-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name


@pytest.fixture(autouse=True)
def plain_tracebacks() -> None:
    """Logs exceptions as Python prints them. By default, structlog renders all local variables,
    which can take a second for each exception."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
