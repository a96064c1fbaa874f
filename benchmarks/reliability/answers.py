"""What an answer of the gateway says: its events, whether it is whole, and what must be the same
each time it is asked for."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

# Numbers of a batch of other texts differ in their last digits.
_TOLERANCE = 2e-4


class Answer(NamedTuple):
    """status: HTTP's. raw: the body, or what has arrived of it."""

    status: int
    content_type: str
    raw: bytes


def events(answer: Answer) -> list[dict[str, Any]]:
    """Of a stream, each event; otherwise the body alone.

    Raises:
        ValueError: it is not JSON, or breaks off.
    """
    if "event-stream" in answer.content_type:
        lines = [x[5:].strip() for x in answer.raw.split(b"\n") if x.startswith(b"data:")]
    elif "ndjson" in answer.content_type:
        lines = answer.raw.splitlines()
    else:
        lines = [answer.raw]
    found = [{"type": "done"} if line == b"[DONE]" else json.loads(line) for line in lines]
    return [one if isinstance(one, dict) else {"rows": one} for one in found]


def error(found: list[dict[str, Any]]) -> str:
    """The error that ends a stream; "": none does."""
    for event in found:
        if event.get("error") or event.get("type") in ("error", "response.failed"):
            return json.dumps(event)[:300]
    return ""


def is_whole(found: list[dict[str, Any]]) -> bool:
    """Whether a stream has the event that ends it in its dialect."""
    last = found[-1] if found else {}
    kinds = ("done", "message_stop", "response.completed", "response.incomplete")
    has_ended = last.get("done") or last.get("generated_text") is not None
    return last.get("type") in kinds or bool(has_ended)


def text(found: list[dict[str, Any]]) -> str:
    """What a generator has said, streamed or not, in any dialect."""
    return "".join(_piece(event) for event in found)


def _piece(event: dict[str, Any]) -> str:
    match event:
        case {"choices": [{"message": {"content": str(said)}}, *_]}:  # OpenAI: chat
            return said
        case {"choices": [{"delta": {"content": str(said)}}, *_]}:
            return said
        case {"choices": [{"text": str(said)}, *_]}:  # completion
            return said
        case {"type": "response.output_text.delta", "delta": str(said)}:  # responses
            return said
        case {"output": [{"content": [{"text": str(said)}, *_]}, *_]}:
            return said
        case {"type": "content_block_delta", "delta": {"text": str(said)}}:  # Anthropic
            return said
        case {"type": "message", "content": [{"text": str(said)}, *_]}:
            return said
        case {"message": {"content": str(said)}}:  # Ollama
            return said
        case {"token": {"text": str(said)}}:  # TGI, streamed
            return said
    return ""


def numbers(found: list[dict[str, Any]]) -> list[float]:
    """Every number of an answer but counts and times, in order."""
    return list(_floats({k: v for k, v in found[0].items() if k not in _COUNTS}))


def _floats(value: Any) -> Any:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _floats(value[name])
    elif isinstance(value, list):
        # Scores come in the order of the best.
        indexed = value and isinstance(value[0], dict) and "index" in value[0]
        for one in sorted(value, key=lambda row: row["index"]) if indexed else value:
            yield from _floats(one)


def is_same(one: Any, other: Any) -> bool:
    """Whether two answers to one request say the same."""
    if isinstance(one, list):
        return len(one) == len(other) and bool(np.allclose(one, other, atol=_TOLERANCE))
    return bool(one == other)


_COUNTS = frozenset({"usage", "created", "meta", "total_duration", "load_duration"})
