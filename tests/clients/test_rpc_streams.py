"""Streams of ``tei.v1`` whose messages are wrong or do not come, before a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from fake_triton import FakeTriton
from gateways import free_port
from scripted import MODELS, gateway

from atoll_client.gateway.tei import grpc_schema
from atoll_client.gateway.tei.grpc_server import _ordered

TEI = grpc_schema.tei()


def test_an_error_while_reading_a_client_s_messages_is_not_their_end() -> None:
    """The stream ended as OK, with the answers to the messages before."""

    async def messages() -> AsyncIterator[int]:
        yield 1
        raise ValueError("cannot be read")

    async def double(message: int) -> int:
        return 2 * message

    async def scenario() -> list[int]:
        found = []
        with pytest.raises(ValueError, match="cannot be read"):
            async for answer in _ordered(messages(), double, 4):
                found.append(answer)
        return found

    assert asyncio.run(scenario()) == [2]


@pytest.mark.parametrize("name", ["Embed/EmbedStream", "Rerank/RerankStream", "Embed/Embed"])
def test_a_message_that_is_no_protobuf(name: str) -> None:
    async def scenario() -> grpc.StatusCode:
        port = free_port()
        async with (
            FakeTriton(MODELS) as triton,
            gateway(triton.address, grpc_port=port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            good = TEI["EmbedRequest"](inputs="a").SerializeToString()
            call: Any
            if name == "Embed/Embed":
                call = channel.unary_unary(f"/tei.v1.{name}")(b"\xff")
            elif "Rerank" in name:
                call = channel.stream_unary(f"/tei.v1.{name}")(iter([good, b"\xff"]))
            else:
                call = _drained(channel.stream_stream(f"/tei.v1.{name}")(iter([good, b"\xff"])))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            return caught.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.INVALID_ARGUMENT


async def _drained(call: Any) -> None:
    async for _ in call:
        pass
