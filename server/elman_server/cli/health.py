"""`elman health`: readiness check for containers and waiting scripts."""

import click
import grpc
from grpc_health.v1 import health_pb2

from elman.cli import completion
from elman.cli.connection import target_option


@click.command(
    epilog="""\b
    Examples:
      elman health
      elman health sentiment --target models.example:50051
      until elman health; do sleep 1; done
    """
)
@click.argument("model", default="", shell_complete=completion.models)
@target_option
@click.option(
    "--timeout", default=3.0, show_default=True, help="Seconds to wait for the server's answer."
)
def health(model: str, target: str, timeout: float) -> int:
    """Ask a server whether it is ready.

    Prints the status of the server, or of MODEL on the server, from `grpc.health.v1`. The exit code
    is 0 for SERVING, and 1 otherwise, also without an answer.
    """
    with grpc.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=model), timeout=timeout)
        except grpc.RpcError as error:
            raise click.ClickException(f"{target}: {_why(error, model)}") from None
    click.echo(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _why(error: grpc.RpcError, model: str) -> str:
    # The health protocol gives no details for an unknown name.
    if model and error.code() is grpc.StatusCode.NOT_FOUND:
        return f"there is no model {model!r} (NOT_FOUND)"
    return f"{error.code().name}: {error.details()}"
