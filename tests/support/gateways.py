"""Gateways for tests, on free ports."""

from __future__ import annotations

from dataclasses import dataclass

from other_models import OtherServer

from atoll.launcher import ServerProcess, free_ports
from atoll.launcher.gateway import GatewayOptions, GatewayProcess

EMBEDDER = "all-minilm-l6-v2"
GENERATOR = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Served:
    """A server and the gateway in front of it."""

    server: ServerProcess
    gateway: GatewayProcess

    @property
    def url(self) -> str:
        """The gateway's base URL."""
        return self.gateway.options.url

    @property
    def grpc_address(self) -> str:
        """Where the gateway's own gRPC services are."""
        return f"127.0.0.1:{self.gateway.options.settings['grpc_port']}"

    def model_url(self, model: str) -> str:
        """Base URL of one model's routes."""
        return f"{self.url}/{model}"


@dataclass(frozen=True)
class Others:
    """A server with other people's models and the gateway in front of it."""

    server: OtherServer
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
        """Where the gateway's gRPC services are."""
        return f"127.0.0.1:{self.gateway.options.settings['grpc_port']}"


def free_port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]


def start_gateway(server: str, metrics_url: str = "", **settings: str) -> GatewayProcess:
    """A gateway in front of a server (or several, by commas); to be stopped."""
    options = GatewayOptions(server, metrics_url, port=free_port(), settings=settings)
    gateway = GatewayProcess(options)
    gateway.start()
    return gateway
