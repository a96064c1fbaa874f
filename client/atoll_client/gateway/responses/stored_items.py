"""The items of a request as they are stored and listed: complete, and each with an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atoll_client.gateway.responses.items import Content, Item
from atoll_client.gateway.responses.parts import new_id

_PREFIXES = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco",
    "custom_tool_call": "ctc", "custom_tool_call_output": "ctco", "reasoning": "rs",
}  # fmt: skip
# The fields of the types, besides those of all and those that hold contents.
_FIELDS: dict[str, tuple[str, ...]] = {
    "function_call": ("call_id", "name", "namespace", "arguments"),
    "function_call_output": ("call_id", "name", "namespace"),
    "custom_tool_call": ("call_id", "name", "namespace", "input"),
    "custom_tool_call_output": ("call_id",),
    "reasoning": ("encrypted_content",),
}


def stored_item(item: Item) -> dict[str, Any]:
    """An item that is no reference."""
    kind = item.kind
    found: dict[str, Any] = {
        "id": item.id or new_id(_PREFIXES[kind]), "type": kind, "status": "completed",
    }  # fmt: skip
    for field in _FIELDS.get(kind, ()):
        if getattr(item, field) is not None:
            found[field] = getattr(item, field)
    if kind == "message":
        word = "output_text" if item.role == "assistant" else "input_text"
        parts = _content(item.content, word)
        found |= {"role": item.role, "content": parts}
    elif kind == "reasoning":
        found["summary"] = _content(item.summary, "summary_text")
        found["content"] = _content(item.content, "reasoning_text")
    elif item.output is not None:
        is_text = isinstance(item.output, str)
        found["output"] = item.output if is_text else _content(item.output, "input_text")
    return found


def _content(content: str | Sequence[Content] | None, word: str) -> list[dict[str, Any]]:
    """Parts of a content, all of them of one type, except for refusals."""
    if isinstance(content, str):
        return [_part(word, content)]
    return [
        {"type": "refusal", "refusal": part.written()}
        if part.type == "refusal"
        else _part(word, part.written())
        for part in content or ()
    ]


def _part(word: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": word, "text": text}
    return {**found, "annotations": [], "logprobs": []} if word == "output_text" else found
