"""The server's settings, checked where they are made.

Each field of `ServerConfig` is a flag of `elman serve`, an environment variable `ELMAN_*` and a
key of the optional TOML file; this module knows nothing of where a value came from.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from elman_server.durable.tickets.keys import parse_key

_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


class ConfigError(ValueError):
    """A setting out of range; the message names it, what came and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    repository: Path | None = None
    """A folder of models as `NAME/VERSION/model.onnx`, or one step model's file."""
    demo: bool = False
    """Serve the bundled models, beside those of `repository` if there is one."""
    strict: bool = False
    """Refuse to start if any model does not load, instead of serving the others."""
    reload_interval: float = 0.0
    """Seconds between two looks at the repository for versions that came or went; 0 looks on SIGHUP
    alone."""
    keep_versions: int = 0
    """How many versions of a model are served: the newest of those that load; 0 serves all that the
    repository has."""
    version_grace: float = 600.0
    """Seconds for which a version that is not to be served any more stays loaded after its last
    session has ended, or was parked or handed over: for so long it can come back."""
    max_model_bytes: int = 2**31 - 1
    """The largest model file, with the constants that lie outside of it, in its folder."""
    load_timeout: float = 30.0
    """Seconds that one step of a load may take, such as opening the graph, or a single run of it; a
    load as a whole may take ten times as long. A model that needs longer is not served."""
    max_load_bytes: int = 0
    """Memory that a model may take while it is loaded and tried out, in a process of its own; 0:
    three quarters of what the machine or the container has."""
    allow_dependent_rows: bool = False
    """Batch models even if the load-time probe finds that rows of a batch affect one another."""

    host: str = "127.0.0.1"
    """The address to listen on, for gRPC and metrics."""
    port: int = 50051
    """gRPC; 0 takes any free port."""
    metrics_port: int = 9464
    """HTTP, for `/metrics`; 0 takes any free port."""

    workers: int = 1
    """Server processes on the one port. Each loads the models and has state and limits of its own;
    a connection stays with the one that it came to."""
    max_sessions: int = 100_000
    """Open sessions of all models together; an open beyond it is refused."""
    max_state_bytes: int = 0
    """Bytes of the state of open sessions, of all models together; an open beyond it is refused. 0:
    a quarter of the memory that the machine or its control group has, shared by the workers."""
    max_batch_size: int = 256
    """Sessions in one step."""
    max_step_elements: int = 512
    """Elements in one step, padding included: bounds how long a step takes."""
    max_chunk: int = 32
    """Elements of one session in one step."""
    step_timeout: float = 5.0
    """Seconds after which a step is ended, and with it the sessions that make it take so long; 0:
    never."""
    max_step_bytes: int = 1024 * 1024 * 1024
    """Bytes of memory that steps may take, beside elements and states, of all models together whose
    operators' time or size depends on elements; a session whose step needs more is ended."""
    max_pending_elements: int = 1_000_000
    """Elements that wait for a step, of all models together; above it large pushes wait unread
    and `Predict` is refused."""
    max_pending_bytes: int = 256 * 1024 * 1024
    """Bytes of elements that wait for a step, with the same effect as their number; and of frames
    that wait to be taken, beyond which calls are refused."""
    max_partial_bytes: int = 256 * 1024 * 1024
    """Bytes of messages that have begun to come and have not ended, of all connections together;
    beyond it those connections are closed that hold the most."""
    max_unread_bytes: int = 256 * 1024 * 1024
    """Bytes that are held for clients that do not read, of all calls together; beyond it those
    calls are ended for which the most is held. So many again are held of named sessions that wait
    for the state store; beyond it their calls wait unread."""
    read_timeout: float = 60.0
    """Seconds after which a call is ended whose client takes nothing of what is written to it; 0:
    never."""
    max_context_bytes: int = 64 * 1024 * 1024
    """Bytes of contexts that wait for their sessions to begin, of all models together; a session
    whose contexts go beyond it is refused."""
    window: int = 1024
    """Elements of one session that may be unanswered before the server stops reading its RPC."""
    max_message_bytes: int = 4 * 1024 * 1024
    """The largest gRPC message, both ways."""
    max_connections: int = 10_000
    """Connections; a further one is closed at once. Fewer where the system allows fewer open
    files."""
    max_concurrent_streams: int = 4_096
    """Calls under way on one connection, as its client is told; further ones wait in the client."""
    max_calls: int = 10_000
    """Calls under way (a Stream is one, whatever its sessions); a further one is refused."""
    max_peer_calls: int = 5_000
    """The same of one address. Behind a proxy all clients have the proxy's."""
    max_call_rate: float = 5_000.0
    """Calls a second of one address, ten seconds' worth at once; further ones are refused, and a
    connection that goes on with them is closed."""
    max_open_rate: float = 50_000.0
    """Sessions that one address opens in a second, ten seconds' worth at once; further ones are
    refused."""
    max_unary_bytes: int = 256 * 1024 * 1024
    """Bytes of unary requests and their answers that are under way, half of them of one address;
    a further request is refused."""
    retry_after: float = 1.0
    """Seconds that a refused client is told to wait."""
    grace_period: float = 30.0
    """Seconds after SIGTERM in which what was pushed is finished; and before a connection whose age
    is over."""
    max_connection_age: float = 0.0
    """Seconds after which a connection's sessions are handed over, a tenth more or less, so that
    their clients connect anew and spread over the servers that there are; 0: never."""
    park_after: float = 300.0
    """Seconds without an element after which a session is parked: its client gets its ticket, with
    which the next element brings it back, and the server keeps nothing of it. Only where the client
    can do that, as the SDK can; 0: never."""
    ticket_key: tuple[str, ...] = field(default=(), repr=False)
    """What seals the tickets from which sessions go on elsewhere: 32 bytes in base64 or hex, the
    same on all servers. Of several the first seals and all open. Without any, one is made and
    kept in the user's state folder, for all servers of that user on this machine; where it can't be
    kept, tickets are good until the server ends. Better set in the environment than as a flag,
    which other users of the machine may see."""
    ticket_lifetime: float = 7 * 24 * 3600.0
    """Seconds for which a ticket is good."""
    min_ticket_elements: int = 100
    """A session that asks for a ticket every so many elements gets one no more often than this."""
    min_ticket_seconds: float = 1.0
    """The same of seconds."""
    state_store: str = field(default="", repr=False)
    """Where named sessions are kept, so that any server that shares it can go on with them:
    redis://HOST[:PORT][/DB] (rediss:// for TLS, unix:// for a socket) or, for the processes of one
    machine, file:/FOLDER. Needs ticket_key. Without it sessions have no names. A password is better
    set in the environment than as a flag."""
    session_lease: float = 3.0
    """Seconds after which another server may take over the named sessions of one that died."""
    session_ttl: float = 24 * 3600.0
    """Seconds for which the state store keeps a named session that nobody uses."""
    checkpoint_interval: float = 1.0
    """Seconds after which the elements of a named session are in the state store, roughly."""
    store_outage: Literal["wait", "continue"] = "wait"
    """What named sessions do while the state store can't be reached for longer than session_lease:
    wait until it can, and go on if no other server has them by then; or continue, at the risk that
    another server that reaches the store has them too, so that two clients get different
    predictions for the same position, and what one of them pushed is dropped."""
    keepalive_time: float = 30.0
    """Seconds of silence on a connection after which the server asks whether its peer is still
    there; a peer that does not answer for as long again is gone, and its sessions with it."""

    threads: int = 1
    """ONNX Runtime's threads within one operator."""
    device: str = "cpu"
    """Where models run and states are: cpu, cuda or, for another GPU than the first, cuda:1. The
    CPU takes its place if it is not there."""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime's execution providers for device cpu, first choice first."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged; at debug, the end of each session too."""
    log_format: Literal["console", "json"] = "console"
    """For people, or for machines: one JSON object a line."""

    def __post_init__(self) -> None:
        if self.repository is None and not self.demo:
            raise ConfigError(
                "there is nothing to serve: name a repository or a model, or use --demo"
            )
        for name in ("port", "metrics_port"):
            self._check(name, 0, 65_535)
        self._check("workers", 1, 256)
        for name in ("max_sessions", "max_pending_elements", "window"):
            self._check(name, 1, 2**32 - 1)
        for name in ("max_batch_size", "max_step_elements", "max_chunk"):
            self._check(name, 1, 65_536)
        for name in (
            "max_context_bytes",
            "max_pending_bytes",
            "max_partial_bytes",
            "max_unread_bytes",
        ):
            self._check(name, 1, 2**40)
        self._check("max_step_bytes", 2**20, 2**40)
        self._check("max_state_bytes", 0, 2**50)
        self._check("max_model_bytes", 1, 2**31 - 1)
        self._check("load_timeout", 0.1, 1_000_000)
        self._check("max_load_bytes", 0, 2**50)
        self._check("max_unary_bytes", 1, 2**40)
        for name in ("max_connections", "max_concurrent_streams", "max_calls", "max_peer_calls"):
            self._check(name, 1, 2**30)
        for name in ("max_call_rate", "max_open_rate"):
            self._check(name, 0.1, 1_000_000_000)
        self._check("threads", 1, 1024)
        self._check("max_message_bytes", 4096, 2**31 - 1)
        self._check("keep_versions", 0, 65_536)
        for name in (
            "retry_after",
            "grace_period",
            "max_connection_age",
            "park_after",
            "reload_interval",
            "version_grace",
            "step_timeout",
            "read_timeout",
        ):
            self._check(name, 0, 1_000_000)
        self._check("keepalive_time", 1, 1_000_000)
        self._check("ticket_lifetime", 1, 10 * 365 * 24 * 3600)
        self._check("min_ticket_elements", 1, 2**32 - 1)
        self._check("min_ticket_seconds", 0.001, 1_000_000)
        for number, key in enumerate(self.ticket_key, 1):
            try:
                parse_key(key)
            except ValueError as error:
                raise ConfigError(f"ticket_key: key {number} is not {error}") from None
        self._check("session_lease", 0.1, 3600)
        self._check("session_ttl", 1, 10 * 365 * 24 * 3600)
        self._check("checkpoint_interval", 0.01, 3600)
        if self.state_store and not self.ticket_key:
            raise ConfigError(
                "state_store is set and ticket_key is not: what is kept there is sealed, and all "
                "servers that share it need the same key (openssl rand -base64 32)"
            )
        if not self.providers:
            raise ConfigError("providers is empty; name at least one")
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device is {self.device!r}; allowed are cpu, cuda and cuda:N")
        if self.device != "cpu" and self.providers != ("CPUExecutionProvider",):
            raise ConfigError(
                f"device is {self.device}, which has a provider of its own; leave providers "
                f"({', '.join(self.providers)}) out"
            )

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; allowed is {low} to {high}")
