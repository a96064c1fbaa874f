"""Items as the messages of a chat, for the model's chat template.

What the model wrote in one turn, reasoning, text and calls, is one message.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.responses.items import Content, Item
from atoll_client.gateway.responses.namespaces import shown_name
from atoll_client.gateway.responses.tools import INPUT

Message = dict[str, Any]
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_CALLS = ("function_call", "custom_tool_call")
# What marks reasoning that this gateway has encoded.
_OWN = "atoll:"


def encoded(reasoning: str) -> str:
    """``encrypted_content`` of a reasoning item: the text, which is no secret, in base64."""
    return _OWN + base64.b64encode(reasoning.encode("utf-8", "surrogatepass")).decode()


def messages_of(instructions: str | None, items: Sequence[Item]) -> list[Message]:
    """The messages of a chat, the instructions first.

    Raises:
        ValidationError: a result has no call, or encrypted reasoning is not this gateway's.
    """
    found: list[Message] = []
    if instructions is not None:
        found.append({"role": "system", "content": instructions})
    calls: set[str] = set()
    # The message of the model that is being put together.
    open_: Message | None = None
    for item in items:
        if item.kind in _OUTPUTS:
            if item.call_id not in calls:
                raise ValidationError.of(
                    "input", f"has an item of type {item.kind} for a call {item.call_id!r} that "
                    "no item before it has",
                )  # fmt: skip
            found.append(_result(item))
            open_ = None
        elif item.kind == "message" and item.role != "assistant":
            found.append({"role": item.role, "content": text_of(item.content)})
            open_ = None
        else:
            if open_ is None or _begins_another(open_, item):
                open_ = {"role": "assistant", "content": None}
                found.append(open_)
            _add(open_, item)
            if item.kind in _CALLS:
                calls.add(str(item.call_id))
    return [_written(message) for message in found]


def text_of(content: str | list[Content] | None) -> str:
    """The text of a content."""
    if isinstance(content, str):
        return content
    return "".join(part.written() for part in content or ())


def _result(item: Item) -> Message:
    found = {"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)}
    return found if item.name is None else {**found, "name": _name(item)}


def _begins_another(message: Message, item: Item) -> bool:
    """Whether an item cannot be part of the message: reasoning comes first, and text twice is two
    messages, unless calls are between."""
    has_calls = "tool_calls" in message
    has_text = message["content"] is not None
    if item.kind == "reasoning":
        return has_text or has_calls
    return item.kind == "message" and has_text and not has_calls


def _add(message: Message, item: Item) -> None:
    if item.kind == "message":
        message["content"] = (message["content"] or "") + text_of(item.content)
    elif item.kind == "reasoning":
        text = _reasoning(item)
        before = message.get("reasoning_content")
        message["reasoning_content"] = text if before is None else f"{before}\n{text}"
    else:
        message.setdefault("tool_calls", []).append(_call(item))


def _call(item: Item) -> dict[str, Any]:
    arguments = item.arguments
    if item.kind == "custom_tool_call":
        arguments = json.dumps({INPUT: item.input}, ensure_ascii=False)
    function = {"name": _name(item), "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _name(item: Item) -> str:
    return shown_name(item.namespace, item.name)


def _reasoning(item: Item) -> str:
    """The text of reasoning: what is said in full comes before a summary."""
    if item.content:
        return text_of(item.content)
    if item.encrypted_content is None:
        return text_of(item.summary)
    try:
        if not item.encrypted_content.startswith(_OWN):
            raise ValueError
        data = base64.b64decode(item.encrypted_content[len(_OWN) :], validate=True)
        return data.decode("utf-8", "surrogatepass")
    except ValueError:
        raise ValidationError.of(
            "input", f"has reasoning whose encrypted_content is not of this gateway: "
            f"{item.encrypted_content[:20]!r}...",
        ) from None  # fmt: skip


def _written(message: Message) -> Message:
    """The message; empty reasoning and the missing content of a call are left out."""
    found = dict(message)
    if not found.get("reasoning_content"):
        found.pop("reasoning_content", None)
    if found["content"] is None and "tool_calls" not in found:
        found["content"] = ""
    if found["content"] is None:
        del found["content"]
    return found
