"""Requests to Triton's own ports and to the gateway's gRPC: Atoll's client, and KServe's HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
from kinds import PROMPTS, TEXTS
from tally import ANSWERED, LEFT, REFUSED, TEMPORARY, WRONG

from atoll_client import AsyncClient
from atoll_client.errors import AtollError

if TYPE_CHECKING:
    from load import Target

_MAX_TOKENS = 12


@dataclass(frozen=True)
class NativeKind:
    """method: of ``Native``, which asks it."""

    name: str
    weight: float
    method: str


NATIVE = (
    NativeKind("gRPC: embedding", 2, "embed"),
    NativeKind("gRPC: generation", 1, "generate"),
    NativeKind("gRPC: stream", 1, "stream"),
    NativeKind("gRPC: stream, left", 0.5, "leave"),
    NativeKind("gRPC: too little time", 0.5, "hurry"),
    NativeKind("gRPC: bad request", 0.3, "bad"),
    NativeKind("Triton's HTTP: generation", 1, "generate_http"),
    NativeKind("Triton's HTTP: embedding", 1, "embed_http"),
    NativeKind("Triton's HTTP: too little time", 0.5, "hurry_http"),
)
_Ended = tuple[str, int, str, bool]


class Native:
    """``async with``: one connection of each kind. address: of KServe's gRPC."""

    def __init__(self, address: str, target: Target, deadline_s: float) -> None:
        self._models = target.models
        # The server is to end what is late before the load gives it up.
        self._grpc = AsyncClient(address, timeout_s=0.9 * deadline_s, retries=0)
        self._http = httpx.AsyncClient(base_url=target.triton_http, timeout=None)
        self._compare: Callable[[str, Any], str] = lambda key, said: ""

    async def __aenter__(self) -> Native:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._grpc.close()
        await self._http.aclose()

    async def ask(
        self, kind: NativeKind, random: Random, compare: Callable[[str, Any], str]
    ) -> _Ended:
        """outcome, status, detail, whether it may end so."""
        self._compare = compare
        try:
            ended: _Ended = await getattr(self, f"_{kind.method}")(random)
            return ended
        except AtollError as error:
            is_asked = kind.method == "bad" and error.http_status < 500
            allowed = is_asked or error.http_status in TEMPORARY
            return REFUSED, error.http_status, repr(error), allowed

    async def _embed(self, random: Random) -> _Ended:
        text = random.choice(TEXTS)
        vectors = await self._grpc.embed([text], self._models.embedder)
        return self._same(f"native embedding {text}", vectors[0].tolist())

    async def _generate(self, random: Random) -> _Ended:
        prompt = random.choice(PROMPTS)
        said = await self._grpc.generate(
            prompt, self._models.generator, max_tokens=_MAX_TOKENS, temperature=0
        )
        return self._same(f"native {prompt}", said.text)

    async def _stream(self, random: Random) -> _Ended:
        prompt = random.choice(PROMPTS)
        chunks = self._grpc.stream(
            prompt, self._models.generator, max_tokens=_MAX_TOKENS, temperature=0
        )
        return self._same(f"native {prompt}", "".join([chunk.text async for chunk in chunks]))

    async def _leave(self, random: Random) -> _Ended:
        limit = asyncio.timeout(random.uniform(0, 1.5))
        try:
            async with limit:
                async for _ in self._grpc.stream(PROMPTS[0], self._models.generator,
                                                 max_tokens=200, ignore_eos=True):  # fmt: skip
                    pass
        except TimeoutError:
            if not limit.expired():
                raise
            return LEFT, 0, "", True
        return ANSWERED, 200, "", True

    async def _hurry(self, random: Random) -> _Ended:
        client = self._grpc.within(random.uniform(0.01, 0.5))
        await client.generate(PROMPTS[1], self._models.generator, max_tokens=200, ignore_eos=True)
        return ANSWERED, 200, "", True

    async def _bad(self, random: Random) -> _Ended:
        bad: dict[str, Any] = random.choice([{"temperature": -1}, {"max_tokens": 10**9}, {"no": 1}])
        said = await self._grpc.generate(PROMPTS[1], self._models.generator, **bad)
        return WRONG, 200, f"{bad} is answered: {said}", False

    async def _generate_http(self, random: Random) -> _Ended:
        prompt = random.choice(PROMPTS)
        body = {"text_input": prompt, "parameters": {"max_tokens": _MAX_TOKENS, "temperature": 0}}
        response = await self._http.post(f"/v2/models/{self._models.generator}/generate", json=body)
        if response.status_code != 200:
            return self._refused(response)
        return self._same(f"native {prompt}", response.json()["text_output"])

    async def _embed_http(self, random: Random) -> _Ended:
        text = random.choice(TEXTS)
        tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        response = await self._http.post(
            f"/v2/models/{self._models.embedder}/infer", json={"inputs": [tensor]}
        )
        if response.status_code != 200:
            return self._refused(response)
        (vector,) = [x["data"] for x in response.json()["outputs"] if x["name"] == "embedding"]
        return self._same(f"native embedding {text}", vector)

    async def _hurry_http(self, random: Random) -> _Ended:
        # A time limit in microseconds, which the model enforces.
        limit = {"max_tokens": 200, "ignore_eos": True, "timeout": random.randint(1, 500_000)}
        body = {"text_input": PROMPTS[2], "parameters": limit}
        response = await self._http.post(f"/v2/models/{self._models.generator}/generate", json=body)
        if response.status_code == 200:
            return ANSWERED, 200, "", True
        return REFUSED, response.status_code, response.text[:300], "time" in response.text

    def _same(self, key: str, said: Any) -> _Ended:
        problem = self._compare(key, said)
        return (WRONG, 200, problem, False) if problem else (ANSWERED, 200, "", True)

    @staticmethod
    def _refused(response: httpx.Response) -> _Ended:
        status = response.status_code
        return REFUSED, status, response.text[:300], status in TEMPORARY
