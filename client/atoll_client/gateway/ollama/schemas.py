"""The bodies of Ollama's routes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.openai.messages import Tool
from atoll_client.gateway.openai.schemas import MAX_TOP_LOGPROBS

_AT_START = "memory and devices are chosen when the server starts"
_TEXT_ONLY = "the models here read text"
_STAYS = "a model stays until the server ends"


class OllamaOptions(Strict):
    """``options``. Those that are not set have Ollama's defaults."""

    num_predict: int | None = Field(default=None, ge=-2, description="below 1: as many as fit")
    temperature: float = Field(default=0.8, ge=0)
    top_k: int = Field(default=40, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="below 0: another each time"
    )
    stop: str | list[str] | None = None
    repeat_penalty: float | None = Field(default=None, gt=0, description="1 by default")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)

    num_ctx: int | None = no_effect("the context is the model's; what exceeds it is refused")
    num_keep: int | None = no_effect("nothing is cut from a prompt")
    mirostat_eta: float | None = no_effect("mirostat is refused")
    mirostat_tau: float | None = no_effect("mirostat is refused")
    embedding_only: bool | None = no_effect(_AT_START)
    f16_kv: bool | None = no_effect(_AT_START)
    logits_all: bool | None = no_effect(_AT_START)
    low_vram: bool | None = no_effect(_AT_START)
    main_gpu: int | None = no_effect(_AT_START)
    num_batch: int | None = no_effect(_AT_START)
    num_gpu: int | None = no_effect(_AT_START)
    num_thread: int | None = no_effect(_AT_START)
    numa: bool | None = no_effect(_AT_START)
    use_mlock: bool | None = no_effect(_AT_START)
    use_mmap: bool | None = no_effect(_AT_START)

    mirostat: Any = refused("there is no such sampling", 0)
    penalize_newline: Any = refused("penalties are for all tokens", True)
    repeat_last_n: Any = refused("penalties look at the whole text", -1)
    tfs_z: Any = refused("there is no such sampling", 1, 1.0)
    vocab_only: Any = refused("models are whole", False)


class GenerationFields(Strict):
    """Fields of both routes that generate text."""

    model: str | None = None
    format: Literal["json", ""] | dict[str, Any] | None = Field(
        None, description="a dict is a JSON schema"
    )
    logprobs: bool = False
    options: OllamaOptions = Field(default_factory=OllamaOptions)
    stream: bool = True
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None, description="levels are for chat templates that read `reasoning_effort`"
    )
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    keep_alive: float | str | None = no_effect(_STAYS)
    shift: Any = refused("nothing is cut from a prompt or an answer", False)
    truncate: Any = refused("nothing is cut from a prompt", False)


class OllamaFunctionCall(Strict):
    """The function of a call."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = no_effect("calls are in order")


class OllamaCall(Strict):
    """One of the ``tool_calls`` of an earlier answer."""

    function: OllamaFunctionCall
    id: str | None = None
    index: int | None = no_effect("calls are in order")
    type: str | None = no_effect("all calls are of functions")


class OllamaMessage(Strict):
    """One of ``messages``."""

    role: str
    content: str = ""
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    images: Any = refused(_TEXT_ONLY, [])


class OllamaChatBody(GenerationFields):
    """POST /api/chat. Without messages, it asks to load the model, which is loaded."""

    messages: list[OllamaMessage] = Field(default_factory=list)
    tools: list[Tool] | None = None


class OllamaGenerateBody(GenerationFields):
    """POST /api/generate. Without a prompt, it asks to load the model, which is loaded."""

    prompt: str = ""
    raw: bool = Field(False, description="the prompt is not put into the chat template")
    suffix: str | None = Field(None, description="of models that fill in the middle")
    system: str | None = None

    context: Any = refused("prompts are texts; /api/chat has earlier messages", [])
    height: Any = refused("the models here write text")
    images: Any = refused(_TEXT_ONLY, [])
    steps: Any = refused("the models here write text")
    template: Any = refused("the model has its own", "")
    width: Any = refused("the models here write text")


class OllamaEmbedBody(Strict):
    """POST /api/embed."""

    input: str | list[str]
    model: str | None = None
    dimensions: int | None = None
    truncate: bool = True

    keep_alive: float | str | None = no_effect(_STAYS)
    options: dict[str, Any] | None = no_effect("they are for generated text, or for loading")


class OllamaEmbeddingsBody(Strict):
    """POST /api/embeddings, the older route."""

    prompt: str = ""
    model: str | None = None

    keep_alive: float | str | None = no_effect(_STAYS)
    options: dict[str, Any] | None = no_effect("they are for generated text, or for loading")


class OllamaShowBody(Strict):
    """POST /api/show."""

    model: str | None = None
    name: str | None = Field(None, description="the older name of `model`")
    verbose: bool | None = no_effect("all that is known is short")
    options: dict[str, Any] | None = no_effect("they are for generated text")
    system: str | None = no_effect("it is part of a request")
    template: str | None = no_effect("the model has its own")
