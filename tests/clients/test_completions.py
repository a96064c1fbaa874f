"""OpenAI's completions before a scripted server: what reaches the model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fake_triton import FakeTriton, words
from scripted import run

from atoll_client import messages


def test_a_suffix_is_for_the_model_to_judge() -> None:
    """Code models write what stands before it; it was refused for all of them."""
    asked: list[dict[str, Any]] = []

    async def generate(message: Any) -> AsyncIterator[Any]:
        names = [tensor.name for tensor in message.inputs]
        raw = message.raw_input_contents[names.index("sampling_parameters")]
        asked.append(json.loads(messages.values("BYTES", raw)[0]))
        async for response in words(message):
            yield response

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = generate
        body = {"prompt": "def one():\n", "suffix": "\n    return x", "max_tokens": 4}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        assert asked[0]["suffix"] == body["suffix"]
        await http.post("/v1/completions", json={**body, "suffix": ""})
        assert "suffix" not in asked[1]
        refused = await http.post("/v1/completions", json={**body, "prompt": [1, 2]})
        assert refused.status_code == 400 and "`suffix`" in refused.json()["error"]["message"]

    run(scenario)
