"""What models are told of who asks: never the key, and nothing that a client can make up."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import grpc.aio
import httpx
import pytest
from fake_triton import FakeTriton
from gateways import free_port
from scripted import EMBED, GENERATE, MODELS, gateway, post, run
from tritonclient.grpc import service_pb2 as pb

from atoll_client.gateway.core.clients import BATCH, Clients, peer_of
from atoll_client.gateway.core.headers import Keys
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Request

TRUSTED = "10.0.0.0/8,2001:db8:ffff::/48,127.0.0.1"
KEY = "key-" + hashlib.sha256(b"secret").hexdigest()[:16]


@pytest.mark.parametrize(
    ("peer", "headers", "name"),
    [
        ("192.0.2.7", {}, "ip-192.0.2.7"),
        ("192.0.2.7", {"x-forwarded-for": "198.51.100.1"}, "ip-192.0.2.7"),
        ("10.1.2.3", {"x-forwarded-for": "198.51.100.1"}, "ip-198.51.100.1"),
        # The client wrote the first, the outer proxy the second, the inner one the third.
        ("10.1.2.3", {"x-forwarded-for": "9.9.9.9, 198.51.100.1, 10.9.9.9"}, "ip-198.51.100.1"),
        ("10.1.2.3", {"x-forwarded-for": "10.5.5.5"}, "ip-10.5.5.5"),
        ("10.1.2.3", {"x-forwarded-for": "198.51.100.1:4711"}, "ip-198.51.100.1"),
        ("10.1.2.3", {"x-forwarded-for": "198.51.100.1, nonsense"}, "ip-unknown"),
        ("10.1.2.3", {"forwarded": 'for=9.9.9.9, For="[2001:db8:1:2:3::4]:80";proto=http'},
         "ip-2001:db8:1:2::/64"),
        ("10.1.2.3", {"forwarded": "for=9.9.9.9", "x-forwarded-for": "198.51.100.1"},
         "ip-198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", {}, "ip-2001:db8:1:2::/64"),
        ("2001:db8:ffff::1", {"x-forwarded-for": "::ffff:198.51.100.1"}, "ip-198.51.100.1"),
        ("::1", {}, "ip-::/64"),
        ("", {}, "ip-unknown"),
    ],
)  # fmt: skip
def test_addresses_behind_proxies(peer: str, headers: dict[str, str], name: str) -> None:
    found = Clients(Keys(""), TRUSTED).name(_request(headers, (peer, 1) if peer else None))
    assert found == name and len(found) <= 64 and found.isascii() and found.isprintable()


@pytest.mark.parametrize(
    ("given", "peer"),
    [
        ("ipv4:192.0.2.7:4711", ("192.0.2.7", 4711)),
        ("ipv6:%5B2001:db8::1%5D:4711", ("2001:db8::1", 4711)),
        ("unix:/run/atoll", None),
    ],
)
def test_peers_of_grpc(given: str, peer: Any) -> None:
    assert peer_of(given) == peer


def test_a_batch_is_not_its_owner() -> None:
    clients = Clients(Keys("secret"), "")
    owner = hashlib.sha256(b"secret").hexdigest()
    request = _request({"x-api-key": "secret"}, None)
    assert clients.name(request) == KEY
    request.scope[BATCH] = owner
    assert clients.name(request) == KEY.replace("key-", "batch-")
    request.scope[BATCH] = ""
    assert clients.name(request) == "batch-all"


def test_a_wrong_proxy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.read(["--trusted-proxies=10.0.0.1/8"], {})
    assert "trusted_proxies is '10.0.0.1/8'" in capsys.readouterr().err


def test_models_are_told_the_client() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        http.headers["authorization"] = "Bearer secret"
        http.headers["x-client"] = "made up"
        for request in (EMBED, GENERATE):
            assert (await post(http, request)).status_code == 200
        tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
        body = {"inputs": [tensor], "parameters": {"x-client": "made up"}}
        seen: list[Any] = []
        embed = triton.embed

        async def spied(message: Any) -> Any:
            seen.append(message)
            return await embed(message)

        triton.embed = spied
        assert (await http.post("/v2/models/vectors/infer", json=body)).status_code == 200
        assert [one.get("x-client") for one in triton.metadata] == [KEY] * 3
        # Triton would add the header to it, and the model would find either.
        assert "x-client" not in seen[0].parameters

    run(scenario, api_key="other,secret")


def test_over_grpc_and_without_keys() -> None:
    async def scenario() -> list[str]:
        port = free_port()
        async with (
            FakeTriton(MODELS) as triton,
            gateway(triton.address, grpc_port=port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            message = pb.ModelInferRequest(model_name="vectors")
            message.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
            message.raw_input_contents.append(b"\1\0\0\0a")
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await call(message.SerializeToString())
            return [one["x-client"] for one in triton.metadata]

    assert asyncio.run(scenario()) == ["ip-127.0.0.1"]


def _request(headers: dict[str, str], client: Any) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({
        "type": "http", "method": "POST", "path": "/", "headers": pairs, "client": client,
    })  # fmt: skip
