"""The options of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.catalogue import Entry
from atoll.launcher.ports import free_ports
from atoll.logs import LogOptions


@dataclass(frozen=True)
class ServerOptions:
    """Everything ``ServerProcess`` needs to know.

    entries: rendered into a repository of the server's own.
    repository: an existing repository.
    host: where HTTP, gRPC and metrics listen.
    names: which of the repository's entries to load; all of them if empty.
    unloaded: entries that are not loaded, although they would be.
    server: a tritonserver binary, "system" for the one on PATH, or None for the wheel's.
    log_file: where the server's output goes; inside the scratch folder if None.
    startup_timeout_s: time until each model must have answered.
    exit_timeout_s: how long running requests may take when stopping.
    watch_interval_s: seconds between canary requests; 0: no watchdog.
    allow_shared_memory: every client may register shared memory, not only administrators.
    log: how the server's lines are written; models read their environment.
    """

    entries: tuple[Entry, ...] = ()
    repository: Path | None = None
    names: tuple[str, ...] = ()
    unloaded: frozenset[str] = frozenset()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    server: str | None = None
    log_file: Path | None = None
    verbose: bool = False
    startup_timeout_s: float = 900.0
    exit_timeout_s: int = 10
    watch_interval_s: float = 15.0
    allow_shared_memory: bool = False
    log: LogOptions = LogOptions()
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def on_free_ports(cls, **options: Any) -> ServerOptions:
        """Options with ports that are free now, for tests and benchmarks."""
        http, grpc, metrics = free_ports(3)
        return cls(http_port=http, grpc_port=grpc, metrics_port=metrics, **options)

    @property
    def client_host(self) -> str:
        """The host at which a client on this machine reaches the server."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
