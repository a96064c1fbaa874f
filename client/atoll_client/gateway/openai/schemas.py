"""Fields that OpenAI's chats and completions share, with what other servers add to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import NoEffect, Refused
from atoll_client.gateway.core.schemas import Strict

# OpenAI's own limit; each answer is a generation of its own.
MAX_N = 128
# The most alternatives for each token, OpenAI's limit for chats.
MAX_TOP_LOGPROBS = 20

_STORED = NoEffect("nothing is stored")
_CACHED = NoEffect("prompts are cached by themselves, for as long as there is room")
_ONE_QUEUE = "all requests wait in one queue"
_NO_BEAMS = "there is no beam search"


class StreamOptions(Strict):
    """``stream_options``."""

    include_usage: bool = False
    include_obfuscation: Annotated[bool | None, NoEffect("events are never padded")] = None
    continuous_usage_stats: Annotated[Any, Refused("usage comes at the end", (False,))] = None


class JsonSchema(Strict):
    """``response_format.json_schema``."""

    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: Annotated[str | None, NoEffect("the schema is no part of the prompt")] = None
    strict: Annotated[bool | None, NoEffect("answers always follow the schema")] = None


class ResponseFormat(Strict):
    """``response_format``, as OpenAI writes it; TGI's clients put the schema into ``value``."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None


class StructuredOutputs(Strict):
    """vLLM's ``structured_outputs``: one of the first five."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, Refused("tags are not followed")] = None
    whitespace_pattern: Annotated[Any, Refused("blanks between values are fixed")] = None
    disable_additional_properties: Annotated[
        Any, Refused("the schema says which properties there are", (False,))
    ] = None
    disable_any_whitespace: Annotated[
        bool | None, NoEffect("blanks between values are always fixed")
    ] = None
    disable_fallback: Annotated[bool | None, NoEffect("there is nothing to fall back to")] = None


class SamplingFields(Strict):
    """Fields of both routes: OpenAI's, then those that vLLM and others add."""

    model: str | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(None, ge=0)
    n: int = Field(1, ge=1, le=MAX_N)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: ResponseFormat | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)

    metadata: Annotated[dict[str, Any] | None, _STORED] = None
    prediction: Annotated[dict[str, Any] | None, NoEffect("only the speed depends on it")] = None
    prompt_cache_key: Annotated[str | None, _CACHED] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, _CACHED] = None
    prompt_cache_retention: Annotated[str | None, _CACHED] = None
    safety_identifier: Annotated[str | None, NoEffect("users are not told apart")] = None
    service_tier: Annotated[str | None, NoEffect(_ONE_QUEUE)] = None
    store: Annotated[bool | None, _STORED] = None
    user: Annotated[str | None, NoEffect("users are not told apart")] = None

    add_special_tokens: bool | None = None
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    skip_special_tokens: bool | None = None
    stop_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputs | None = None
    top_k: int | None = Field(None, ge=-1)
    truncate_prompt_tokens: int | None = Field(None, ge=1)
    typical_p: float | None = Field(None, gt=0, le=1)

    guided_decoding_backend: Annotated[Any, NoEffect("there is one implementation")] = None
    spaces_between_special_tokens: Annotated[
        bool | None, NoEffect("tokens are joined as the tokenizer joins them")
    ] = None

    allowed_token_ids: Annotated[Any, Refused("tokens cannot be listed")] = None
    bad_words: Annotated[Any, Refused("words cannot be banned; see logit_bias", ([],))] = None
    cache_salt: Annotated[Any, Refused("cached prompts are shared by all callers")] = None
    early_stopping: Annotated[Any, Refused(_NO_BEAMS, (False,))] = None
    guided_whitespace_pattern: Annotated[Any, Refused("blanks between values are fixed")] = None
    kv_transfer_params: Annotated[Any, Refused("caches are not handed on")] = None
    length_penalty: Annotated[Any, Refused(_NO_BEAMS, (1, 1.0))] = None
    logits_processors: Annotated[Any, Refused("callers cannot bring code", ([],))] = None
    min_new_tokens: Annotated[Any, Refused("it is called min_tokens here")] = None
    max_new_tokens: Annotated[Any, Refused("it is called max_tokens here")] = None
    num_beams: Annotated[Any, Refused(_NO_BEAMS, (1,))] = None
    priority: Annotated[Any, Refused(_ONE_QUEUE, (0,))] = None
    prompt_logprobs: Annotated[Any, Refused("/v1/completions has echo with logprobs")] = None
    request_id: Annotated[Any, Refused("the header x-request-id has it")] = None
    return_token_ids: Annotated[Any, Refused("answers are text", (False,))] = None
    return_tokens_as_token_ids: Annotated[Any, Refused("answers are text", (False,))] = None
    use_beam_search: Annotated[Any, Refused(_NO_BEAMS, (False,))] = None
    vllm_xargs: Annotated[Any, Refused("there are no plugins", ({},))] = None
