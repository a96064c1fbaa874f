"""A file, a batch and a stored response, whose ids requests name."""

from __future__ import annotations

import json

import httpx

from fuzzing.target import EMBEDDER, GENERATOR, KEY, Target


def prepared(target: Target) -> dict[str, str]:
    """New ones: earlier requests may have deleted those before."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings",
            "body": {"model": EMBEDDER, "input": "a"}}  # fmt: skip
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=target.server.url(), headers=headers, timeout=120) as http:
        form = {"file": ("lines.jsonl", json.dumps(line))}
        file = http.post("/v1/files", files=form, data={"purpose": "batch"}).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()["id"]
        body = {"model": GENERATOR, "input": "a", "max_output_tokens": 1}
        response = http.post("/v1/responses", json=body).json()["id"]
    return {"file": file, "batch": batch, "response": response}
