"""One batch through the gateway's HTTP: a file is sent, its lines are answered, all is deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
from kinds import PROMPTS, Models, messages

_ENDED = ("completed", "failed", "expired", "cancelled")
_CHAT = "/v1/chat/completions"


async def batch(
    client: httpx.AsyncClient, models: Models, random: Random, sent: Callable[[str, int], None]
) -> str:
    """What is wrong with it; "": each line was answered once. sent: told of each HTTP request.

    Raises:
        httpx.TransportError: the gateway cannot be reached.
    """

    async def ask(method: str, path: str, route: str, **options: Any) -> httpx.Response:
        status = 0
        try:
            response = await client.request(method, path, **options)
            status = response.status_code
        finally:
            sent(route, status)
        return response

    count = random.randint(2, 8)
    line = {"model": models.generator, "messages": messages(random.choice(PROMPTS)),
            "max_tokens": 4}  # fmt: skip
    lines = [
        {"custom_id": f"line {at}", "method": "POST", "url": _CHAT, "body": line}
        for at in range(count)
    ]
    text = "\n".join(json.dumps(one) for one in lines).encode()
    response = await ask("POST", "/v1/files", "/v1/files", data={"purpose": "batch"},
                         files={"file": ("lines.jsonl", text)})  # fmt: skip
    if response.status_code != 200:
        return f"file: {response.status_code} {response.text[:200]}"
    file = response.json()["id"]
    body = {"input_file_id": file, "endpoint": _CHAT, "completion_window": "24h"}
    response = await ask("POST", "/v1/batches", "/v1/batches", json=body)
    if response.status_code != 200:
        return f"batch: {response.status_code} {response.text[:200]}"
    found = response.json()
    while found["status"] not in _ENDED:
        await asyncio.sleep(0.5)
        response = await ask("GET", f"/v1/batches/{found['id']}", "/v1/batches/{batch_id}")
        if response.status_code != 200:
            return f"batch: {response.status_code} {response.text[:200]}"
        found = response.json()
    output = found["output_file_id"]
    if found["status"] != "completed" or output is None:
        return f"batch: {json.dumps(found)[:300]}"
    response = await ask("GET", f"/v1/files/{output}/content", "/v1/files/{file_id}/content")
    ids = sorted(json.loads(row)["custom_id"] for row in response.text.splitlines())
    for name in (file, output):
        await ask("DELETE", f"/v1/files/{name}", "/v1/files/{file_id}")
    return "" if ids == [f"line {at}" for at in range(count)] else f"{count} lines: {ids}"
