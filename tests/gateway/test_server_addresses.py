"""Addresses of servers, as people write them."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll_client import Client
from atoll_client.address import parse_address
from atoll_client.errors import NotReady, ValidationError
from atoll_client.gateway.core.settings import GatewaySettings


@pytest.mark.parametrize(
    ("text", "is_http", "target"),
    [
        ("localhost:8001", False, "localhost:8001"),
        (" grpc://localhost:8001/ ", False, "localhost:8001"),
        ("GRPC://10.0.0.1:1", False, "10.0.0.1:1"),
        ("[::1]:8001", False, "[::1]:8001"),
        ("dns:///triton:8001", False, "dns:///triton:8001"),
        ("unix:/run/triton.sock", False, "unix:/run/triton.sock"),
        ("http://localhost:8000", True, "http://localhost:8000"),
        ("HTTP://localhost:8000/", True, "http://localhost:8000"),
        ("https://models.example/atoll/", True, "https://models.example/atoll"),
    ],
)
def test_addresses(text: str, is_http: bool, target: str) -> None:
    assert parse_address(text) == (is_http, target)


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "localhost:", ":8001", "a:0", "a:99999", "ftp://a:1", "a b:1", "http://"],
)
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ValidationError, match="is no address of a server; expected host:port"):
        parse_address(text)
    with pytest.raises(ValidationError, match="is no address"), Client(text) as client:
        client.models()


def test_gateways_take_schemes() -> None:
    """They asked a host of the name "http"."""
    settings = GatewaySettings(server="http://triton-a:8001, grpc://b:1,c:2")
    assert settings.servers == ("triton-a:8001", "b:1", "c:2")
    with pytest.raises(ValueError, match="server: 'c' is no address"):
        GatewaySettings(server="a:1,c")


@pytest.mark.parametrize("verb", ["infer", "chat", "bench", "profile"])
@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_commands_say_that_nothing_answers(verb: str, scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NotReady, match=r"127\.0\.0\.1") as error:
            CliRunner().invoke(
                app, [verb, "m", "--url", address], input="a text\n", catch_exceptions=False
            )
    assert "refused" in str(error.value).lower() or "Connect call failed" in str(error.value)
