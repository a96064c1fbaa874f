"""The server's command line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from atoll.launcher.installation import Installation
from atoll.launcher.options import ServerOptions
from atoll.serving.requests.report import FORWARDED

logger = logging.getLogger(__name__)

ADMIN_HEADER = "atoll-admin"
# Not model-config: perf_analyzer and tritonclient read it, and it only allows reading.
_RESTRICTED = "model-repository,logging,trace"
# Unless allowed by the user: a client could register a stub's own region.
_SHARED_MEMORY = "shared-memory"
# Headers that models get as parameters: the request's id and trace, for their logs and spans.
# Whole names: gRPC's binary metadata (`traceparent-bin`) is no text.
_FORWARDED = f"(?i)^({'|'.join(FORWARDED)})$"


def command_line(
    options: ServerOptions,
    installation: Installation,
    server_id: str,
    *,
    backends: Path,
    repositories: Sequence[Path],
    models: Sequence[str],
    admin_key: str,
    shm_prefix: str,
) -> list[str]:
    """Arguments that start the server with exactly ``models`` loaded."""
    restricted = _RESTRICTED if options.allow_shared_memory else f"{_RESTRICTED},{_SHARED_MEMORY}"
    return [
        str(installation.binary),
        f"--id={server_id}",
        *(f"--model-repository={folder}" for folder in repositories),
        f"--backend-directory={backends}",
        f"--cache-directory={installation.caches}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # Our configs are complete; auto-completion would take a second per model.
        "--disable-auto-complete-config",
        f"--http-address={options.host}",
        f"--grpc-address={options.host}",
        f"--metrics-address={options.host}",
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--http-header-forward-pattern={_FORWARDED}",
        f"--grpc-header-forward-pattern={_FORWARDED}",
        f"--http-restricted-api={restricted}:{ADMIN_HEADER}={admin_key}",
        f"--grpc-restricted-protocol={restricted}:{ADMIN_HEADER}={admin_key}",
    ]


def hide_argument(pid: int, secret: str) -> None:
    """Overwrites ``secret`` in the command line that ``ps`` shows, once the process has read it.

    Every user of the machine can read /proc/<pid>/cmdline, and the server accepts its key in no
    other way.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # proc(5): arg_start and arg_end are fields 48 and 49; this list begins with field 3.
        start, end = int(fields[45]), int(fields[46])
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret.encode(), b"*" * len(secret)))
    except (OSError, ValueError, IndexError) as error:
        logger.warning(
            "other users of this machine can read the server's administration key: %s", error
        )
