"""Fields of both chat completions and completions, including those that other servers add."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Metadata, Priority, Strict

# OpenAI's limit. Each answer is a generation of its own.
MAX_N = 128
# OpenAI's limit for chats.
MAX_TOP_LOGPROBS = 20

_STORED = "nothing is stored"
_CACHED = "prompts are cached automatically, as long as there is memory"
_SESSION = "chooses the server among several, so that the prompt is found in its cache"
_ONE_QUEUE = "requests are ordered by priority"


class StreamOptions(Strict):
    """``stream_options``."""

    include_usage: bool = False
    include_obfuscation: bool | None = no_effect("events are never padded")
    continuous_usage_stats: bool = False


class JsonSchema(Strict):
    """``response_format.json_schema``."""

    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = no_effect("the schema is not added to the prompt")
    strict: bool | None = no_effect("answers always follow the schema")


class ResponseFormat(Strict):
    """``response_format`` of OpenAI. TGI's clients send the schema in ``value``."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None


class StructuredOutputs(Strict):
    """vLLM's ``structured_outputs``: one of the first five fields."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = refused("tags are not supported")
    whitespace_pattern: Any = refused("whitespace between values is fixed")
    disable_additional_properties: Any = refused("the schema defines the properties", False)
    disable_any_whitespace: bool | None = no_effect("whitespace between values is always fixed")
    disable_fallback: bool | None = no_effect("there is no fallback")


class PredictedPart(Strict):
    """A part of ``prediction.content``."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = no_effect(_CACHED)


class PredictedOutput(Strict):
    """``prediction``: what much of the answer is expected to be, which only speeds it up."""

    type: Literal["content"]
    content: str | list[PredictedPart]

    def text(self) -> str:
        """The whole text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class SamplingFields(Strict):
    """Fields of both routes: OpenAI's, then those of vLLM and other servers."""

    model: str | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(None, ge=0)
    n: int = Field(1, ge=1, le=MAX_N)
    prediction: PredictedOutput | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: ResponseFormat | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)

    metadata: Metadata | None = no_effect(_STORED)
    prompt_cache_key: str | None = no_effect(_SESSION)
    prompt_cache_options: dict[str, Any] | None = no_effect(_CACHED)
    prompt_cache_retention: str | None = no_effect(_CACHED)
    safety_identifier: str | None = no_effect("requests of all users are treated alike")
    service_tier: str | None = no_effect(_ONE_QUEUE)
    store: bool | None = no_effect(_STORED)
    user: str | None = no_effect(_SESSION)

    add_special_tokens: bool | None = None
    bad_words_ids: list[list[int]] | None = None
    begin_suppress_tokens: list[int] | None = None
    early_stopping: bool | Literal["never"] | None = None
    forced_bos_token_id: int | None = Field(None, ge=0)
    forced_eos_token_id: int | None = Field(None, ge=0)
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    length_penalty: float | None = Field(None, ge=-10, le=10)
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    num_beams: int | None = Field(None, ge=1)
    priority: Priority | None = None
    repetition_penalty: float | None = Field(None, gt=0)
    skip_special_tokens: bool | None = None
    src_lang: str | None = None
    stop_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputs | None = None
    suppress_tokens: list[int] | None = None
    tgt_lang: str | None = None
    top_k: int | None = Field(None, ge=-1)
    truncate_prompt_tokens: int | None = Field(None, ge=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    use_beam_search: bool | None = None

    guided_decoding_backend: Any = no_effect("there is one implementation")
    spaces_between_special_tokens: bool | None = no_effect(
        "the tokenizer decides how tokens are joined"
    )

    allowed_token_ids: Any = refused("tokens cannot be listed")
    bad_words: Any = refused("words cannot be banned; see logit_bias", [])
    cache_salt: Any = refused("cached prompts are shared by all callers")
    guided_whitespace_pattern: Any = refused("whitespace between values is fixed")
    kv_transfer_params: Any = refused("caches are not transferred")
    logits_processors: Any = refused("requests cannot contain code", [])
    min_new_tokens: Any = refused("it is called min_tokens here")
    max_new_tokens: Any = refused("it is called max_tokens here")
    prompt_logprobs: Any = refused("/v1/completions has echo with logprobs")
    request_id: Any = refused("it is in the header x-request-id")
    return_token_ids: Any = refused("answers are text", False)
    return_tokens_as_token_ids: Any = refused("answers are text", False)
    vllm_xargs: Any = refused("there are no plugins", {})
