"""Files and batches by the openai package."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import openai
from openai.types import Batch

ENDED = ("completed", "failed", "expired", "cancelled")
_WAIT_S = 60.0


def upload(client: openai.OpenAI, lines: bytes | Iterable[dict[str, Any]], **options: Any) -> str:
    """Sends a file of lines; returns its id."""
    if not isinstance(lines, bytes):
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return client.files.create(file=("lines.jsonl", lines), purpose="batch", **options).id


def requests(url: str, bodies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each body, with ids from ``r0``."""
    return [
        {"custom_id": f"r{index}", "method": "POST", "url": url, "body": body}
        for index, body in enumerate(bodies)
    ]


def start(client: openai.OpenAI, url: Any, lines: Any, **options: Any) -> Batch:
    """A new batch of lines."""
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=url, completion_window="24h", **options
    )


def wait(client: openai.OpenAI, batch_id: str, *statuses: str) -> Batch:
    """The batch, once it has ended, or has one of these statuses."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            batch = client.batches.retrieve(batch_id)
        except (openai.APIConnectionError, openai.InternalServerError):
            batch = None  # the gateway is starting again
        if batch is not None and batch.status in (statuses or ENDED):
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; none without a file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
