"""No field that a client's own types have is forgotten in the bodies of requests."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types import ToolParam, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params
from huggingface_hub.inference._generated.types import ChatCompletionInput, TextGenerationInput
from ollama import _types as ollama_types
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import (
    custom_tool_param,
    easy_input_message_param,
    function_tool_param,
    input_token_count_params,
    response_create_params,
    response_custom_tool_call_output_param,
    response_custom_tool_call_param,
    response_function_tool_call_param,
    response_input_param,
    response_output_message_param,
    response_reasoning_item_param,
    tool_choice_allowed_param,
    tool_choice_custom_param,
    tool_choice_function_param,
)
from pydantic import BaseModel

from atoll_client.gateway.anthropic.schemas import AnthropicTool, CountTokensBody, MessagesBody
from atoll_client.gateway.core.fields import table
from atoll_client.gateway.ollama.schemas import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaMessage,
    OllamaOptions,
    OllamaShowBody,
)
from atoll_client.gateway.openai.chat import ChatBody
from atoll_client.gateway.openai.completions import CompletionsBody
from atoll_client.gateway.openai.embeddings_schemas import EmbeddingsBody
from atoll_client.gateway.responses.items import Item
from atoll_client.gateway.responses.schemas import (
    InputTokensBody,
    PromptFields,
    ResponseBody,
    ResponseChoice,
    ResponseTool,
)
from atoll_client.gateway.tgi.schemas import GenerateBody

# Fields whose holder is refused, or free for the caller to fill.
CLOSED = ("audio", "functions", "function_call", "moderation", "web_search_options",
          "prompt_cache_options", "custom", "image_url", "input_audio", "file", "metadata",
          "parameters", "prompt_cache_breakpoint", "access_programs", "annotations",
          "background_options", "caller", "context_management", "conversation", "image", "logprobs",
          "output_schema", "prompt")  # fmt: skip
# Of a response's input and tools, the types that are known here are compared on their own.
RESPONSE = (*CLOSED, "input", "schema", "tools", "tool_choice")
KNOWN: list[tuple[Any, type[BaseModel]]] = [
    (easy_input_message_param.EasyInputMessageParam, Item),
    (response_input_param.Message, Item),
    (response_input_param.FunctionCallOutput, Item),
    (response_input_param.ItemReference, Item),
    (response_output_message_param.ResponseOutputMessageParam, Item),
    (response_function_tool_call_param.ResponseFunctionToolCallParam, Item),
    (response_custom_tool_call_param.ResponseCustomToolCallParam, Item),
    (response_custom_tool_call_output_param.ResponseCustomToolCallOutputParam, Item),
    (response_reasoning_item_param.ResponseReasoningItemParam, Item),
    (function_tool_param.FunctionToolParam, ResponseTool),
    (custom_tool_param.CustomToolParam, ResponseTool),
    (tool_choice_allowed_param.ToolChoiceAllowedParam, ResponseChoice),
    (tool_choice_custom_param.ToolChoiceCustomParam, ResponseChoice),
    (tool_choice_function_param.ToolChoiceFunctionParam, ResponseChoice),
]


def _members(kind: Any, prefix: str = "", closed: tuple[str, ...] = CLOSED) -> Iterator[str]:
    """Names of a TypedDict's members, and of those inside, as tables have them."""
    for name, hint in typing.get_type_hints(kind).items():
        yield prefix + name
        if name not in closed:
            for inner, is_list in _inner(hint, False):
                yield from _members(inner, f"{prefix}{name}{'[]' if is_list else ''}.", closed)


def _inner(hint: Any, is_list: bool) -> Iterator[tuple[Any, bool]]:
    if typing.is_typeddict(hint):
        yield hint, is_list
    origin = typing.get_origin(hint)
    is_list = is_list or (isinstance(origin, type) and issubclass(origin, typing.Iterable))
    for part in typing.get_args(hint):
        yield from _inner(part, is_list)


@pytest.mark.parametrize(
    ("params", "body"),
    [
        (chat_params.CompletionCreateParamsStreaming, ChatBody),
        (completion_create_params.CompletionCreateParamsStreaming, CompletionsBody),
        (embedding_create_params.EmbeddingCreateParams, EmbeddingsBody),
        (response_create_params.ResponseCreateParamsStreaming, ResponseBody),
        (input_token_count_params.InputTokenCountParams, InputTokensBody),
        *KNOWN,
    ],
)
def test_no_field_of_the_openai_package_is_forgotten(params: Any, body: type[BaseModel]) -> None:
    """Fields that were in no class of ours were dropped without a word."""
    known = {row.name for row in table(body)}
    closed = RESPONSE if issubclass(body, PromptFields) else CLOSED
    assert {name for name in _members(params, closed=closed) if name not in known} == set()


@pytest.mark.parametrize(
    ("params", "body"),
    [
        (message_create_params.MessageCreateParamsStreaming, MessagesBody),
        (beta_params.MessageCreateParamsStreaming, MessagesBody),
        (message_count_tokens_params.MessageCountTokensParams, CountTokensBody),
        (ToolParam, AnthropicTool),
    ],
)
def test_no_field_of_the_anthropic_package_is_forgotten(params: Any, body: type[BaseModel]) -> None:
    asked = set(typing.get_type_hints(params)) - {"betas"}  # a header
    assert asked - {row.name for row in table(body)} == set()


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (ollama_types.ChatRequest, OllamaChatBody),
        (ollama_types.GenerateRequest, OllamaGenerateBody),
        (ollama_types.EmbedRequest, OllamaEmbedBody),
        (ollama_types.EmbeddingsRequest, OllamaEmbeddingsBody),
        (ollama_types.ShowRequest, OllamaShowBody), (ollama_types.Options, OllamaOptions),
        (ollama_types.Message, OllamaMessage),
    ],
)  # fmt: skip
def test_no_field_of_the_ollama_package_is_forgotten(asked: Any, body: type[BaseModel]) -> None:
    assert set(asked.model_fields) - {row.name for row in table(body)} == set()


def _attributes(kind: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        yield prefix + field.name


def test_no_field_of_huggingface_hub_is_forgotten() -> None:
    known = {row.name for row in table(GenerateBody)}
    hints = typing.get_type_hints(TextGenerationInput)
    (parameters,) = [one for one in typing.get_args(hints["parameters"]) if one is not type(None)]
    asked = {*_attributes(TextGenerationInput), *_attributes(parameters, "parameters.")}
    assert asked - known == set()
    assert set(_attributes(ChatCompletionInput)) - {row.name for row in table(ChatBody)} == set()
