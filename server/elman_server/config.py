"""The server's settings, with validation.

Each field of `ServerConfig` is a flag of `elman serve`, an environment variable `ELMAN_*` and a key
of the optional TOML file. This module does not know the source of a value.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from elman_server.durable.tickets.keys import parse_key

_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


class ConfigError(ValueError):
    """A setting is out of range. The message names the setting, its value and the allowed
    values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    repository: Path | None = None
    """A folder of models as `NAME/VERSION/model.onnx`, or the file of one step model."""
    demo: bool = False
    """Serve the bundled models, in addition to the models of `repository`."""
    strict: bool = False
    """Refuse to start if any model does not load, instead of serving the others."""
    reload_interval: float = 0.0
    """Seconds between two scans of the repository for new and removed versions; 0 scans on SIGHUP
    only."""
    keep_versions: int = 0
    """The number of versions served per model: the newest loadable versions; 0 serves every version
    in the repository."""
    version_grace: float = 600.0
    """Seconds for which a withdrawn version stays loaded after its last session has ended, or was
    parked or handed over. Until then, parked and handed-over sessions can come back."""
    max_model_bytes: int = 2**31 - 1
    """The largest model file in bytes, including external constants in the model's folder."""
    load_timeout: float = 30.0
    """Seconds for one step of a load, such as opening the graph, or a single run of the graph. A
    whole load may take ten times as long. A slower model is not served."""
    max_load_bytes: int = 0
    """Bytes of memory for loading and trying out a model, in a separate process; 0: three quarters
    of the memory of the machine or the container."""
    allow_dependent_rows: bool = False
    """Batch models even if the load-time probe finds that rows of a batch affect each other."""

    host: str = "127.0.0.1"
    """The address to listen on, for gRPC and metrics."""
    port: int = 50051
    """The port for gRPC; 0 takes any free port."""
    metrics_port: int = 9464
    """The port for HTTP, for `/metrics`; 0 takes any free port."""

    workers: int = 1
    """Server processes on the shared port. Each process loads the models and has its own state and
    limits. A connection stays with the process it reached first."""
    max_sessions: int = 100_000
    """Open sessions, of all models together; further opens are refused."""
    max_state_bytes: int = 0
    """Bytes of state of the open sessions, of all models together; further opens are refused. 0: a
    quarter of the memory of the machine or its control group, divided among the workers."""
    max_batch_size: int = 256
    """Sessions in one step."""
    max_step_elements: int = 512
    """Elements in one step, including padding; limits the duration of a step."""
    max_chunk: int = 32
    """Elements of one session in one step."""
    step_timeout: float = 5.0
    """Seconds after which a step is ended, together with the sessions causing the delay; 0:
    never."""
    max_step_bytes: int = 1024 * 1024 * 1024
    """Bytes of memory for steps, excluding elements and states, of all models together. Counts only
    models with operators whose time or size depends on elements. A session whose step needs more is
    ended."""
    max_pending_elements: int = 1_000_000
    """Elements waiting for a step, of all models together. Above the limit, large pushes wait
    unread and `Predict` is refused."""
    max_pending_bytes: int = 256 * 1024 * 1024
    """Bytes of elements waiting for a step, with the same effect as `max_pending_elements`. Also
    the bytes of frames waiting for processing; above the limit, calls are refused."""
    max_partial_bytes: int = 256 * 1024 * 1024
    """Bytes of partially received messages, of all connections together. Above the limit, the
    connections with the most such bytes are closed."""
    max_unread_bytes: int = 256 * 1024 * 1024
    """Bytes buffered for slow readers, of all calls together. Above the limit, the calls with the
    most buffered bytes are ended. The same number of bytes is buffered for named sessions waiting
    for the state store; above this second limit, their calls wait unread."""
    read_timeout: float = 60.0
    """Seconds after which a call is ended if its client reads no answers; 0: never."""
    max_context_bytes: int = 64 * 1024 * 1024
    """Bytes of contexts waiting for their sessions to begin, of all models together. A session
    whose contexts exceed the limit is refused."""
    window: int = 1024
    """Unanswered elements of one session above which the server stops reading the session's RPC."""
    max_message_bytes: int = 4 * 1024 * 1024
    """The largest gRPC message in bytes, in both directions."""
    max_connections: int = 10_000
    """Open connections; further connections are closed at once. The limit is lower where the system
    allows fewer open files."""
    max_concurrent_streams: int = 4_096
    """Concurrent calls on one connection, as announced to the client; further calls wait in the
    client."""
    max_calls: int = 10_000
    """Concurrent calls (a Stream is one call, however many sessions it has); further calls are
    refused."""
    max_peer_calls: int = 5_000
    """Concurrent calls from one address; further calls are refused. All clients behind a proxy have
    the proxy's address."""
    max_call_rate: float = 5_000.0
    """Calls per second from one address, with bursts of ten seconds' worth. Further calls are
    refused, and a connection is closed if its calls keep exceeding the rate."""
    max_open_rate: float = 50_000.0
    """Sessions opened per second from one address, with bursts of ten seconds' worth; further
    sessions are refused."""
    max_unary_bytes: int = 256 * 1024 * 1024
    """Bytes of unary requests in progress and their answers, at most half of them from one address;
    further requests are refused."""
    retry_after: float = 1.0
    """Seconds for which a refused client is asked to wait."""
    grace_period: float = 30.0
    """Seconds after SIGTERM for answering the pushed elements. A connection gets the same time at
    the end of its maximum age."""
    max_connection_age: float = 0.0
    """Seconds after which a connection's sessions are handed over, plus or minus a tenth. Their
    clients then reconnect and spread over the available servers; 0: never."""
    park_after: float = 300.0
    """Seconds without an element after which a session is parked. The client gets the session's
    ticket, and the server frees the session. The next element resumes the session from the ticket.
    Only for clients with support for parking, such as the SDK; 0: never."""
    ticket_key: tuple[str, ...] = field(default=(), repr=False)
    """The key for sealing tickets: 32 bytes in base64 or hex, the same on all servers. With several
    keys, the first key seals and every key opens. Without a key, the server uses a key from the
    user's state folder, generated once and shared by all servers of the user on this machine. If
    the folder can't be used, tickets are valid until the server ends. Prefer the environment to the
    flag: other users of the machine may see a flag."""
    ticket_lifetime: float = 7 * 24 * 3600.0
    """Seconds for which a ticket is valid."""
    min_ticket_elements: int = 100
    """The smallest number of elements between two automatic tickets of a session."""
    min_ticket_seconds: float = 1.0
    """The smallest number of seconds between two automatic tickets of a session."""
    state_store: str = field(default="", repr=False)
    """The store of named sessions; every server with the same store can resume them.
    redis://HOST[:PORT][/DB] (rediss:// for TLS, unix:// for a socket) or, for the processes of one
    machine, file:/FOLDER. Needs ticket_key. Without a store, sessions have no names. Set a password
    in the environment rather than as a flag."""
    session_lease: float = 3.0
    """Seconds after which another server may take over the named sessions of a dead server."""
    session_ttl: float = 24 * 3600.0
    """Seconds for which the state store keeps an unused named session."""
    checkpoint_interval: float = 1.0
    """Seconds after which the elements of a named session are in the state store, approximately."""
    store_outage: Literal["wait", "continue"] = "wait"
    """Behaviour of named sessions while the state store is unreachable for longer than
    session_lease. wait: sessions pause until the store is back, and resume unless another server
    has them by then. continue: sessions go on, at the risk of a second server with access to the
    store also running them. Two clients then get different predictions for the same position, and
    the elements of one client are dropped."""
    keepalive_time: float = 30.0
    """Seconds of silence on a connection after which the server pings the peer. If the peer does
    not answer for the same time again, the connection and its sessions end."""

    threads: int = 1
    """ONNX Runtime's threads within one operator."""
    device: str = "cpu"
    """The device for models and states: cpu, cuda or, for a GPU other than the first, cuda:1. The
    CPU is the fallback for a missing device."""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime's execution providers for device cpu, in order of preference."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest logged level; debug also logs the end of each session."""
    log_format: Literal["console", "json"] = "console"
    """Log format: console for people, json for machines (one JSON object per line)."""

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
