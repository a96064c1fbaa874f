"""``truncation`` auto: the oldest turns of a conversation that is too long are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from atoll_client.gateway.chat_formats.chat import Chat
from atoll_client.gateway.core.web import dump

_TOO_LONG = re.compile(r"has (\d+) tokens(?: and max_tokens is (\d+))?")
_FIXED = ("system", "developer")


def shortened(chat: Chat, problem: str) -> Chat | None:
    """The chat without its oldest turns.

    Args:
        problem: the model's error.

    Returns:
        None: the error has another reason, or there is only one turn.
    """
    found = _TOO_LONG.search(problem)
    if found is None:
        return None
    facts = chat.job.model.facts
    most = chat.job.model.max_input_tokens
    if found[2] is not None:
        most = int(facts.get("max_total_tokens") or most) - int(found[2])
    num_tokens = int(found[1])
    messages = _without(chat.job.prompt.messages or (), max(num_tokens - most, 0) / num_tokens)
    if messages is None:
        return None
    prompt = replace(chat.job.prompt, messages=messages)
    return replace(chat, job=replace(chat.job, prompt=prompt))


def _without(messages: Sequence[Mapping[str, Any]], share: float) -> list[Mapping[str, Any]] | None:
    """The messages without the oldest turns that have at least a share of all text."""
    num_fixed = next((i for i, one in enumerate(messages) if one["role"] not in _FIXED), 0)
    starts = [i for i, one in enumerate(messages) if one["role"] == "user" and i > num_fixed]
    sizes = [len(dump(message)) for message in messages]
    for start in starts:
        if sum(sizes[num_fixed:start]) >= share * sum(sizes) or start == starts[-1]:
            return [*messages[:num_fixed], *messages[start:]]
    return None
