"""`elman serve`: starts a server from flags, environment and settings file."""

import socket
from typing import Any

import click

from elman_server.cli.settings import parameters
from elman_server.config import ConfigError, ServerConfig
from elman_server.errors import StartError
from elman_server.serving.loading.children import Children
from elman_server.telemetry import logs

_HELP = """Serve step models to streams over gRPC.

REPOSITORY (env var: ELMAN_REPOSITORY) is a model repository with files NAME/VERSION/model.onnx, or
the file of a step model. Every option is also an environment variable and a key of the --config
file. A flag wins over the environment, the environment over the file.

SIGTERM or Ctrl-C stops the server gracefully: the server answers the pushed elements first. SIGHUP
reloads the model repository."""

_EXAMPLES = """\b
Examples:
  elman serve --demo
  elman serve models/
  elman serve model.onnx --port 0 --metrics-port 0
  elman serve models/ --host 0.0.0.0 --max-sessions 20000 --log-format json
  ELMAN_PORT=50052 elman serve --config elman.toml
"""


def _serve(**values: Any) -> int:
    try:
        config = ServerConfig(**values)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    logs.configure(config.log_level, config.log_format)
    try:
        if config.workers > 1:
            from elman_server.workers import supervisor

            return supervisor.run(config)
        require_free(config.host, config.port)
        with Children() as children:
            # Import only now, so help and usage errors need not wait for ONNX Runtime. The fork
            # server imports ONNX Runtime at the same time, for the children.
            children.start()
            from elman_server.server import run

            return run(config, children)
    except StartError as error:
        raise click.UsageError(str(error)) from None


def require_free(host: str, port: int) -> None:
    """Raises `click.UsageError` if the port can't be bound.

    The server would detect a taken port as well. But gRPC would also write a log line of its own,
    and only an environment variable of the process could turn off the line.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise click.UsageError(f"port {port} on {host}: {error.strerror}") from None


serve = click.Command(
    "serve",
    params=parameters(),
    callback=_serve,
    help=_HELP,
    epilog=_EXAMPLES,
)
