"""Decoders that embed, behind the gateway, beside transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from gateways import Served
from tiny.embedders import PUBLISHED, write_embedder
from tokenizers import Tokenizer
from unusual_encoders import (
    LONG,
    encoders_served,
    post,
)

from atoll_client import Client


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Embedders that are decoders, by name: the folder, and ids to vectors by transformers."""
    base = tmp_path_factory.mktemp("decoders")
    names = ("embedding-gemma", "qwen3-embedding")
    return {name: (base / name, write_embedder(name, base / name)) for name in names}


@pytest.fixture(scope="module")
def served(decoding: dict[str, tuple[Path, Any]]) -> Iterator[Served]:
    with encoders_served({name: folder for name, (folder, _) in decoding.items()}) as found:
        yield found


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        yield client


@pytest.mark.parametrize("name", ["embedding-gemma", "qwen3-embedding"])
def test_decoders_embed_on_every_route(
    name: str, http: httpx.Client, served: Served, decoding: dict[str, tuple[Path, Any]]
) -> None:
    """A prompt by its name, fewer dimensions, and a text that is cut but for what frames it."""
    folder, vector = decoding[name]
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.enable_truncation(64)

    def expected(text: str, size: int = 48) -> Any:
        found = vector(core.encode(text).ids)[0, :size].numpy()
        return found / np.linalg.norm(found)

    query = PUBLISHED[name].prompts["query"] + "coral"
    body = {"inputs": ["coral"], "prompt_name": "query"}
    np.testing.assert_allclose(post(http, f"/{name}/embed", body)[0], expected(query), atol=1e-5)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    found = client.embeddings.create(model=name, input=["coral", LONG], dimensions=20)
    for one, text in zip(found.data, ("coral", LONG), strict=True):
        np.testing.assert_allclose(one.embedding, expected(text, 20), atol=1e-5)
    for address in (
        served.server.grpc_url,
        served.server.http_url,
        served.grpc_address,
        served.url,
    ):
        with Client(address) as own:
            vectors = own.embed(["coral", LONG], model=name, prompt_name="query")
        both = np.stack([expected(query), expected(PUBLISHED[name].prompts["query"] + LONG)])
        np.testing.assert_allclose(vectors, both, atol=1e-5)
