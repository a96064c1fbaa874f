"""Requests that were right before something in them was changed: a real server outlives them all.

Triton 2.51 itself ends by SIGABRT, SIGSEGV or SIGFPE on several of them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from gateways import EMBEDDER, GENERATOR, Others, Served
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e308, 0.5,
    "", "a", "\0", "IN", "BYTES", "FP64", "é" * 200, "[" * 500, [], {}, [[]], [-1], [0], [2**40],
    [1, 1099511627776], [4, 4, 4, 4], [1] * 40, [None], [{}], {"a": []},
    {"classification": 3}, {"classification": -1}, {"classification": 2**40},
    {"binary_data_size": 2**62}, {"binary_data_size": -1}, {"binary_data": 3},
    {"shared_memory_region": "x", "shared_memory_byte_size": 64}, {"sequence_id": "x" * 400},
    {"sequence_start": True, "sequence_id": 2**64 - 1}, {"priority": 2**40}, {"timeout": -1},
]  # fmt: skip
FOUR: Any = [
    {"name": "IN", "datatype": "FP32", "shape": [2, 4], "data": [1, 2, 3, 4, 5, 6, 7, 8]},
    {"name": "TIN", "datatype": "BYTES", "shape": [2, 4], "data": list("abcdefgh")},
]
SEEDS: list[tuple[str, Any]] = [
    ("echo/infer", {"id": "a", "parameters": {"x": 1, "sequence_id": 3}, "inputs": [
        {"name": "IN_INT32", "datatype": "INT32", "shape": [2], "data": [1, 2]},
        {"name": "IN_STRING", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
        {"name": "IN_FP64", "datatype": "FP64", "shape": [2], "data": [0.5, 1]},
    ], "outputs": [{"name": "OUT_INT32", "parameters": {"classification": 1}},
                   {"name": "OUT_STRING", "parameters": {"binary_data": True}}]}),
    ("batched/infer", {"inputs": FOUR, "parameters": {"priority": 1, "timeout": 900000},
                       "outputs": [{"name": "TOUT"}, {"name": "OUT"}]}),
    ("repeat/generate_stream", {"IN": [1, 2], "id": "x", "parameters": {"a": 1}}),
    ("batched/generate", {"IN": [1, 2, 3, 4], "TIN": ["a", "b", "c", "d"]}),
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        nested = isinstance(item, (dict, list))
        found += _places(item, (*path, key)) if nested else [(*path, key)]
    return found


def _changed(chance: random.Random, body: Any) -> bytes:
    """JSON with one or two members replaced, gone or doubled, or bytes of it."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 2)):
        places = _places(body)
        if not places:
            break
        *way, last = chance.choice(places)
        at = body
        for key in way:
            at = at[key]
        kind = chance.random()
        if kind < 0.15:
            del at[last]
        elif kind < 0.25 and isinstance(at, list):
            at.extend(copy.deepcopy(at) * chance.randint(1, 3))
        elif kind < 0.35 and isinstance(at, dict):
            at[chance.choice(["a", "", "data", "shape", "\u2603"])] = at.pop(last)
        else:
            at[last] = copy.deepcopy(chance.choice(VALUES))
    raw = bytearray(json.dumps(body).encode())
    if chance.random() < 0.2:
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw[: chance.randrange(len(raw))] if chance.random() < 0.05 else raw)


async def _all_answered(url: str, seeds: list[tuple[str, Any]], count: int, seed: int) -> None:
    """Each has an answer that says what was wrong, or is one."""
    chance = random.Random(seed)
    seen: set[int] = set()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def one(path: str, body: bytes, headers: dict[str, str]) -> None:
            answer = await client.post(f"/v2/models/{path}", content=body, headers=headers)
            # What a model itself says of a negative number is no refusal of the gateway's.
            is_told = answer.status_code < 500 or "negative: -" in answer.text
            assert is_told, (path, body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"], body
            seen.add(answer.status_code)

        for _ in range(0, count, 20):
            work = []
            for _ in range(20):
                path, body = chance.choice(seeds)
                raw, headers = _changed(chance, body), {}
                if path.endswith("infer") and chance.random() < 0.3:
                    size = chance.choice([0, len(raw), len(raw) - 1, len(raw) + 1, 2**40])
                    headers["inference-header-content-length"] = str(size)
                    raw += chance.randbytes(chance.choice([0, 1, 8]))
                work.append(one(path, raw, headers))
            await asyncio.gather(*work)
    assert seen >= {200, 400}


def test_over_http(others: Others) -> None:
    for seed in range(6):
        asyncio.run(_all_answered(others.url, SEEDS, 200, seed))
        assert others.server.is_alive and others.gateway.num_restarts == 0
        assert httpx.get(f"{others.url}/v2/models/echo/ready", timeout=60).status_code == 200


def test_over_http_with_atoll_s_models(served: Served) -> None:
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["an atoll"]}
    seeds = [
        (f"{EMBEDDER}/infer", {"inputs": [text], "parameters": {"normalize": True}}),
        (f"{EMBEDDER}/generate", {"text_input": "a", "normalize": False}),
        (f"{GENERATOR}/generate", {"text_input": "a", "parameters": {"max_tokens": 2}}),
        (f"{GENERATOR}/generate_stream", {"text_input": "a", "stream": True, "max_tokens": 2}),
    ]
    asyncio.run(_all_answered(served.url, seeds, 200, 11))
    assert httpx.get(f"{served.url}/health", timeout=60).status_code == 200


def _message(chance: random.Random) -> bytes:
    """A ModelInferRequest with something changed, in its fields or in its bytes."""
    message = pb.ModelInferRequest(model_name="echo", id="a")
    for name, datatype, raw in (
        ("IN_INT32", "INT32", b"\1\0\0\0\2\0\0\0"), ("IN_STRING", "BYTES", b"\1\0\0\0a\0\0\0\0"),
    ):  # fmt: skip
        message.inputs.add(name=name, datatype=datatype, shape=[2])
        message.raw_input_contents.append(raw)
    message.outputs.add(name="OUT_INT32")
    kind = chance.randrange(12)
    tensor = message.inputs[chance.randrange(2)]
    size = chance.choice([-1, 0, 1, 3, 2**31, 2**40, 2**62, -(2**63)])
    if kind == 0:
        tensor.shape[:] = [size]
    elif kind == 1:
        tensor.shape[:] = [1, size]
    elif kind == 2:
        tensor.datatype = chance.choice(["", "BYTES", "FP64", "INT8", "BF16", "nix", "TYPE_INT32"])
    elif kind == 3:
        message.raw_input_contents[chance.randrange(2)] = chance.randbytes(chance.randrange(20))
    elif kind == 4:
        message.parameters[chance.choice(["sequence_id", "timeout", "x", "triton_x"])].SetInParent()
    elif kind == 5:
        name = chance.choice(["classification", "shared_memory_region", "binary_data", "x"])
        message.outputs[0].parameters[name].int64_param = size
        message.outputs[0].name = chance.choice(["OUT_INT32", "OUT_STRING", "TOLD"])
    elif kind == 6:
        message.model_version = chance.choice(["-1", "x", "9" * 30, "0", "1", " 1"])
    elif kind == 7:
        tensor.contents.int_contents.extend([1, 2])
    elif kind == 8:
        message.raw_input_contents.extend([b""] * chance.randrange(4))
    elif kind == 9:
        tensor.name = chance.choice(["", "IN_FP16", "nix", "IN_STRING", "\0"])
    elif kind == 10:
        tensor.parameters["shared_memory_region"].string_param = "x"
        tensor.parameters["shared_memory_byte_size"].int64_param = size
    raw = bytearray(message.SerializeToString())
    if kind == 11 or chance.random() < 0.2:
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


GOOD = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True])
def test_over_grpc(others: Others, is_stream: bool) -> None:
    async def scenario(seed: int) -> set[Any]:
        chance = random.Random(seed)
        seen = set()
        async with grpc.aio.insecure_channel(others.grpc_address) as channel:
            infer = channel.unary_unary(SERVICE + "ModelInfer")
            stream = channel.stream_stream(
                SERVICE + "ModelStreamInfer",
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )

            async def one() -> None:
                try:
                    await infer(_message(chance))
                    seen.add(grpc.StatusCode.OK)
                except grpc.aio.AioRpcError as error:
                    seen.add(error.code())
                    assert error.code() in GOOD and error.details(), error

            for _ in range(20):
                if not is_stream:
                    await asyncio.gather(*(one() for _ in range(20)))
                    continue
                messages = [_message(chance) for _ in range(20)]
                found = [response async for response in stream(iter(messages))]
                # Each has one answer.
                assert len(found) == 20
                seen.update(bool(response.error_message) for response in found)
        return seen

    seen = asyncio.run(scenario(5))
    assert seen >= ({True, False} if is_stream else {grpc.StatusCode.OK})
    assert others.server.is_alive and others.gateway.num_restarts == 0
    assert httpx.get(f"{others.url}/v2/models/echo/ready", timeout=60).status_code == 200
