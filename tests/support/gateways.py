"""Gateways for tests, on free ports."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from other_models import OtherServer

from atoll.launcher import ServerProcess, free_ports
from atoll.launcher.gateway import GatewayOptions, GatewayProcess

EMBEDDER = "all-minilm-l6-v2"
GENERATOR = "smollm2-135m-instruct"
# A tool that a small model fills in.
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class _Fronted:
    """A server and the gateway in front of it."""

    server: Any
    gateway: GatewayProcess

    @property
    def url(self) -> str:
        """The gateway's base URL."""
        return self.gateway.options.url

    @property
    def host(self) -> str:
        """The same without the scheme, as Triton's own client wants it."""
        return self.url.removeprefix("http://")

    @property
    def grpc_address(self) -> str:
        """Where the gateway's own gRPC services are."""
        return f"127.0.0.1:{self.gateway.options.settings['grpc_port']}"


@dataclass(frozen=True)
class Served(_Fronted):
    """Of Atoll's models."""

    server: ServerProcess

    def model_url(self, model: str) -> str:
        """Base URL of one model's routes."""
        return f"{self.url}/{model}"


@dataclass(frozen=True)
class Others(_Fronted):
    """Of other people's models."""

    server: OtherServer


@contextmanager
def fronted(server: ServerProcess, **settings: str) -> Iterator[Served]:
    """A running server with a gateway, which also has gRPC, the server's metrics and batches."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"grpc_port": str(free_port()), "batch_folder": folder, **settings}
        gateway = start_gateway(server.grpc_url, server.metrics_url, **settings)
        try:
            gateway.wait_ready()
            yield Served(server, gateway)
        finally:
            gateway.stop()


def free_port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]


def start_gateway(server: str, metrics_url: str = "", **settings: str) -> GatewayProcess:
    """A gateway in front of a server (or several, by commas); to be stopped."""
    options = GatewayOptions(server, metrics_url, port=free_port(), settings=settings)
    gateway = GatewayProcess(options)
    gateway.start()
    return gateway
