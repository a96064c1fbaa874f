"""Requests to a gateway, its parts and Triton, and the processor time that they take."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

TEXT = "What is deep learning?"
EMBED = json.dumps({"inputs": TEXT}).encode()
NUM_TOKENS = 64
PROMPT = "The capital of France is"
_GENERATE = {"inputs": PROMPT, "parameters": {"max_new_tokens": NUM_TOKENS}}


class Connection:
    """One HTTP connection, kept open."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *reason: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of a response with a Content-Length."""
        head = await self._send(path, body)
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return await self._reader.readexactly(length)

    async def stream(self, path: str, body: bytes) -> int:
        """The number of events in a streamed response."""
        await self._send(path, body)
        count = 0
        while size := int(await self._reader.readline(), 16):
            count += (await self._reader.readexactly(size + 2)).count(b"data:")
        await self._reader.readline()
        return count

    async def _send(self, path: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in answer[:20], answer
        return answer


async def requests_per_core(pid: int, port: int, path: str, count: int, workers: int) -> float:
    """Requests per second of processor time of the process that answers."""
    process = psutil.Process(pid)

    async def work() -> None:
        async with Connection(port) as connection:
            for _ in range(count // workers):
                await connection.post(path, EMBED)

    before = _seconds(process)
    await asyncio.gather(*(work() for _ in range(workers)))
    return count / (_seconds(process) - before)


async def latencies(port: int, address: str, count: int) -> dict[str, list[float]]:
    """Milliseconds of the same embedding over gRPC and through the gateway, in turns."""
    call = await grpc_call(address)
    found: dict[str, list[float]] = {"gRPC": [], "gateway": []}
    async with Connection(port) as connection:
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "gRPC": call, "gateway": lambda: connection.post("/embed", EMBED),
        }  # fmt: skip
        for turn in range(count + 20):
            for name, way in ways.items():
                began = time.perf_counter()
                await way()
                if turn >= 20:
                    found[name].append(1000 * (time.perf_counter() - began))
    return found


async def grpc_call(address: str) -> Callable[[], Awaitable[Any]]:
    """One embedding over asynchronous gRPC, with as little overhead as possible."""
    import grpc.aio
    from tritonclient.grpc import service_pb2 as pb

    from atoll_client import embeddings

    message = embeddings.embed(EMBEDDER, [TEXT], {})
    infer = grpc.aio.insecure_channel(address).unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )

    async def call() -> Any:
        return await infer(message)

    return call


async def tokens_per_second(way: Callable[[], Awaitable[int]], workers: int) -> float:
    """Streamed tokens per second of wall time, of ``workers`` generations at once."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(way() for _ in range(workers)))
    return sum(counts) / (time.perf_counter() - began)


async def streams(port: int, address: str, workers: int, rounds: int) -> dict[str, float]:
    """Tokens per second over gRPC and through the gateway, in turns: the median of the rounds."""
    from atoll_client import AsyncClient

    body = json.dumps(_GENERATE).encode()
    async with AsyncClient(address) as client:

        async def direct() -> int:
            chunks = client.stream(PROMPT, GENERATOR, max_tokens=NUM_TOKENS, logprobs=True)
            return sum([len(chunk.tokens) async for chunk in chunks])

        async def through() -> int:
            async with Connection(port) as connection:
                return await connection.stream("/generate_stream", body)

        found: dict[str, list[float]] = {"gRPC": [], "gateway": []}
        for _ in range(rounds):
            found["gRPC"].append(await tokens_per_second(direct, workers))
            found["gateway"].append(await tokens_per_second(through, workers))
    return {name: statistics.median(rates) for name, rates in found.items()}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"
