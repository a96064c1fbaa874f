"""``atoll-gateway``: the process. ``serve`` runs it inside another program."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from atoll_client.gateway.app import Gateway
from atoll_client.gateway.connection import LimitedProtocol
from atoll_client.gateway.routes import ROUTES
from atoll_client.gateway.settings import GatewaySettings, listed

# Ends the gateway with the process that started it: how a launcher starts it.
_STDIN = "--exit-with-stdin"


def application(settings: GatewaySettings) -> Any:
    """The ASGI application."""
    gateway: Any = Gateway(settings, ROUTES)
    origins = listed(settings.cors_allow_origin)
    if origins:
        return CORSMiddleware(
            gateway, allow_origins=origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["*"],
        )  # fmt: skip
    return gateway


def serve(settings: GatewaySettings, *, exit_with_stdin: bool = False) -> None:
    """Runs until SIGINT or SIGTERM, or until the process that started it is gone."""
    config = uvicorn.Config(
        application(settings),
        host=settings.hostname,
        port=settings.port,
        http=LimitedProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    if exit_with_stdin:
        threading.Thread(target=_wait_for_end, args=(server,), daemon=True).start()
    server.run()


def _wait_for_end(server: uvicorn.Server) -> None:
    """A pipe's reading end sees its end when the writer is gone, even when that was killed."""
    sys.stdin.buffer.read()
    server.should_exit = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``atoll-gateway``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    exit_with_stdin = _STDIN in given
    settings = GatewaySettings.read([flag for flag in given if flag != _STDIN])
    serve(settings, exit_with_stdin=exit_with_stdin)


if __name__ == "__main__":
    main()
