"""``atoll-gateway``: the process. ``serve`` runs it inside another program."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import sys
import threading
from collections.abc import Sequence

import uvicorn

from atoll_client.gateway.core.app import Gateway
from atoll_client.gateway.core.connection import LimitedProtocol
from atoll_client.gateway.core.logs import configure
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.routes import ROUTES

# Run as a program, the module is called __main__.
logger = logging.getLogger("atoll_client.gateway.main")

# How long sending the last responses may take when the process ends.
_ANSWER_S = 5
# Longer than clients and proxies keep connections that are idle. uvicorn's 5 s are httpx's, too: on
# a busy machine, its timer can close a connection before the request that waits in it is read.
_KEEP_ALIVE_S = 75
# A flag for launchers: the gateway ends with the process that started it, which writes a line of
# JSON if models have crashed: {"lost": [models], "before": time.monotonic()}, or have come, gone or
# changed: {"changed": [models], "unloaded": [all that were unloaded deliberately]}, or sleep:
# {"asleep": {name: model to load}}.
_STDIN = "--exit-with-stdin"


def application(settings: GatewaySettings) -> Gateway:
    """The ASGI application."""
    return Gateway(settings, ROUTES)


def serve(settings: GatewaySettings, *, exit_with_stdin: bool = False) -> None:
    """Runs until SIGINT or SIGTERM, or until the process that started it has ended."""
    gateway = application(settings)
    config = uvicorn.Config(
        gateway,
        host=settings.hostname,
        port=settings.port,
        http=LimitedProtocol,
        # Its lines are ours: the root logger writes them.
        log_config=None,
        access_log=False,
        server_header=False,
        # It would trust whatever comes from 127.0.0.1; trusted_proxies says whom to trust.
        proxy_headers=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_S,
        # _Server ends all requests before.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + _ANSWER_S,
    )
    server = _Server(config, gateway, settings.shutdown_grace_s)
    if exit_with_stdin:
        threading.Thread(target=_listen, args=(server, gateway), daemon=True).start()
    server.run()


class _Server(uvicorn.Server):  # type: ignore[misc]
    """When it stops, gives open requests ``grace_s`` seconds, and then ends them with an error."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, grace_s: float) -> None:
        super().__init__(config)
        self._gateway, self._grace_s = gateway, grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Logs the address."""
        await super().startup(sockets)
        if self.started:
            settings = self._gateway.context.settings
            grpc = f", gRPC on port {settings.grpc_port}" if settings.grpc_port else ""
            logger.info("listening on http://%s:%d%s", settings.hostname, settings.port, grpc)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more requests."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._grace_s, self._gateway.end_requests)
        self._gateway.close_services(self._grace_s + _ANSWER_S)
        self._gateway.pause_batches(self._grace_s)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def _listen(server: uvicorn.Server, gateway: Gateway) -> None:
    """Stops the server at the end of stdin, which comes even if the launcher is killed."""
    for line in sys.stdin.buffer:
        found = json.loads(line)
        if "lost" in found:
            gateway.lose(found["lost"], found["before"])
        if "asleep" in found:
            gateway.told.asleep = found["asleep"]
        if "unloaded" in found:
            gateway.told.unloaded = frozenset(found["unloaded"])
        gateway.renew(found.get("changed", ()))
    server.should_exit = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``atoll-gateway``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    exit_with_stdin = _STDIN in given
    settings = GatewaySettings.read([flag for flag in given if flag != _STDIN])
    configure(settings.log_level, settings.log_format)
    if not exit_with_stdin:
        # A launcher logs the address itself.
        own = logging.getLogger("atoll_client.gateway")
        own.setLevel(min(logging.INFO, own.getEffectiveLevel()))
    try:
        serve(settings, exit_with_stdin=exit_with_stdin)
    except ModuleNotFoundError as error:
        sys.exit(f"atoll-gateway: error: {error}")


if __name__ == "__main__":
    main()
