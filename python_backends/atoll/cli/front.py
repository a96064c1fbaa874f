"""The gateway of ``atoll serve``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from atoll.errors import ConfigError
from atoll.launcher import ServerProcess
from atoll.launcher.gateway import GatewayOptions, GatewayProcess, missing_packages
from atoll.launcher.logs import add_line
from atoll.launcher.ports import check_free

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def gateway_of(
    process: ServerProcess, host: str, port: int, settings: Mapping[str, str]
) -> GatewayProcess | None:
    """The server's gateway, not started yet; None if it is turned off.

    Raises:
        ConfigError: a package is missing, or the port is in use.
    """
    if port == 0:
        if host not in LOOPBACK:
            raise ConfigError(
                f"--host {host} is where the gateway listens, and --port 0 starts none; "
                "Triton's own ports listen where --triton-host says"
            )
        return None
    missing = missing_packages()
    if missing:
        raise ConfigError(
            f"the gateway needs {', '.join(missing)}: pip install 'atoll-client[gateway]', "
            "or --port 0 for no gateway"
        )
    check_free(host, {"--port": port, "--gateway-grpc-port": int(settings["grpc_port"])})
    return GatewayProcess(
        GatewayOptions(
            server=process.grpc_url,
            metrics_url=process.metrics_url,
            host=host,
            port=port,
            grace_s=float(process.options.exit_timeout_s),
            settings=settings,
        ),
        note=partial(add_line, process.log_path),
    )
