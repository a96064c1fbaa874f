"""Tool calls in a chat's answer: whole, and in pieces of every size, which come to the same."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from atoll_client.gateway.openai_chat import ChatBody, _Chat, _choice, _Writer
from atoll_client.gateway.openai_messages import Tool
from atoll_client.gateway.tools import ToolChoice
from atoll_client.types import Chunk

CALL = '{"name": "f", "arguments": {"x": 1}}'
TAGGED = f"<tool_call>\n{CALL}\n</tool_call>"
# Text of an answer -> what it says, and how many calls it makes.
ANSWERS = {
    "": ("", 0),
    "Hello <tool": ("Hello <tool", 0),
    "a < b and <tool_calls>": ("a < b and <tool_calls>", 0),
    CALL: (None, 1),
    f"[{CALL}, {CALL}]": (None, 2),
    '{"name": "g"}': ('{"name": "g"}', 0),
    TAGGED: (None, 1),
    f"I look.\n\n{TAGGED}\n{TAGGED}": ("I look.", 2),
    f"<think>\nHm <b>\n</think>\n\n{TAGGED}": ("<think>\nHm <b>\n</think>", 1),
    f"Write {CALL}": (f"Write {CALL}", 0),
    "<tool_call>nothing": ("<tool_call>nothing", 0),
}


def _chat() -> Any:
    body = ChatBody.model_validate({"messages": [{"role": "user", "content": "Hi"}]})
    choice = ToolChoice.read([Tool.model_validate({"function": {"name": "f"}})], "auto")
    return _Chat(body, [SimpleNamespace()], choice, {})  # type: ignore[list-item]


@pytest.mark.parametrize("text", ANSWERS)
def test_whole(text: str) -> None:
    said, num_calls = ANSWERS[text]
    found = _choice(_chat(), 0, Chunk(text, finish_reason="stop"))
    assert found["message"]["content"] == said
    assert len(found["message"].get("tool_calls", [])) == num_calls
    assert found["finish_reason"] == ("tool_calls" if num_calls else "stop")


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("text", ANSWERS)
def test_in_pieces(text: str, size: int) -> None:
    """A call behind other text was streamed as text, while a whole answer had it as a call."""
    said, num_calls = ANSWERS[text]
    pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
    # The last piece may come with the reason, or before it.
    for tail in ([pieces[-1], ""], [pieces[-1]]):
        parts = [*pieces[:-1], *tail]
        chunks = [Chunk(part) for part in parts[:-1]] + [Chunk(parts[-1], finish_reason="stop")]
        writer = _Writer(_chat(), 0)
        deltas = [found for chunk in chunks for found in writer.write(chunk)]
        content = "".join(d["delta"].get("content") or "" for d in deltas)
        calls = [call for d in deltas for call in d["delta"].get("tool_calls", [])]
        assert content.strip() == (said or "")
        assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"x": 1}] * num_calls
        assert deltas[-1]["finish_reason"] == ("tool_calls" if num_calls else "stop")
