"""Token ids of prompts and of chats, and their texts, in vLLM's format; the version."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

import atoll_client
from atoll_client.gateway.core import tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.fields import refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai.messages import TemplateFields, check_messages
from atoll_client.tasks import ENCODER_TASKS
from atoll_client.types import ModelInfo

_ANY_TASK = ("generate", *ENCODER_TASKS)


class PromptTokensBody(Strict):
    """POST /tokenize with a prompt."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class ChatTokensBody(TemplateFields):
    """POST /tokenize with messages."""

    model: str | None = None
    return_token_strs: bool = False

    add_special_tokens: Any = refused("the chat template writes the special tokens", False)
    mm_processor_kwargs: Any = refused("chats are texts", {})


class DetokenizeBody(Strict):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None


class TokenIds(TypedDict):
    """Token ids, the most that the model takes, and on request the text of each token."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(TypedDict):
    """The text of token ids, special tokens included."""

    prompt: str


class Version(TypedDict):
    """The gateway's version."""

    version: str


async def tokenize_prompt(
    request: Request, context: Context, body: PromptTokensBody
) -> Reply[TokenIds]:
    """The tokens of a text."""
    model = context.find(request, body.model, _ANY_TASK)
    tokens.check_length(model, [body.prompt], "prompt")
    (row,) = await tokens.tokenize(context, model, [body.prompt], body.add_special_tokens)
    return await _found(model, row, len(body.prompt), body.return_token_strs)


async def tokenize_chat(
    request: Request, context: Context, body: ChatTokensBody
) -> Reply[TokenIds]:
    """The tokens of the prompt that the chat template makes of messages."""
    model = context.find(request, body.model, ("generate",))
    check_messages(body.messages)
    tools = [tool.given() for tool in body.tools or ()]
    question = {
        "op": "chat", "messages": [message.given() for message in body.messages],
        "tools": tools or None, "options": body.template_options(),
    }  # fmt: skip
    answer = await context.pool.ask(model.name, question)
    return await _found(model, answer["tokens"], len(answer["text"]), body.return_token_strs)


async def detokenize(
    request: Request, context: Context, body: DetokenizeBody
) -> Reply[DetokenizedText]:
    """The text of token ids."""
    model = context.find(request, body.model, _ANY_TASK)
    (text,) = await tokens.decode(context, model, [body.tokens], skip_special_tokens=False)
    return reply({"prompt": text})


async def version(request: Request, context: Context, body: None) -> Reply[Version]:
    """GET /version."""
    return reply({"version": atoll_client.__version__})


async def _found(
    model: ModelInfo, row: list[dict[str, Any]], size: int, with_texts: bool
) -> Reply[TokenIds]:
    """size: characters of the text, which decide whether a thread does it."""

    def made() -> Reply[TokenIds]:
        return reply(
            {
                "count": len(row),
                "max_model_len": model.facts.get("max_total_tokens") or model.max_input_tokens,
                "tokens": [token["id"] for token in row],
                "token_strs": [token["text"] for token in row] if with_texts else None,
            }
        )

    return await tokens.run_in_thread([" " * size], made)
