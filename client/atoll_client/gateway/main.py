"""``atoll-gateway``: the process. ``serve`` runs it inside another program."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from atoll_client.gateway.app import Gateway
from atoll_client.gateway.routes import ROUTES
from atoll_client.gateway.settings import GatewaySettings, listed


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


def serve(settings: GatewaySettings) -> None:
    """Runs until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        application(settings),
        host=settings.hostname,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``atoll-gateway``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    serve(GatewaySettings.read(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
