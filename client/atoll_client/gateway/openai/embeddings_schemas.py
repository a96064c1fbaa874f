"""What OpenAI's embeddings route is sent, with what other servers and TEI add to it."""

from __future__ import annotations

from typing import Any, Literal

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.encoders import Parameters, truncation
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Inputs, Strict

# NVIDIA NIM's words for what is cut off, and what they mean elsewhere.
NimCut = Literal["NONE", "START", "END"]
_SIDES = {"START": "left", "END": "right"}

_TASK = "prompts are named by prompt_name"
_CHAT = "chats are not embedded"
_CALLED = "it is called {} here"
_FLOATS = "vectors are float32"


def cut(
    truncate: bool | NimCut | None, direction: str | None, prompt_name: str | None = None
) -> Parameters:
    """How inputs are cut.

    Raises:
        ValidationError: ``truncate`` names another side than ``direction``.
    """
    if truncate is None or isinstance(truncate, bool):
        return truncation(truncate, direction, prompt_name)
    side = _SIDES.get(truncate)
    if side is not None and direction is not None and direction.lower() != side:
        raise ValidationError(
            f"`truncate` is {truncate!r} and the direction {direction!r}", param="truncate"
        )
    return truncation(truncate != "NONE", side or direction, prompt_name)


class OtherServers(Strict):
    """How inputs are cut, and fields of vLLM that all its routes for encoders have."""

    truncate: bool | NimCut | None = None
    truncation_direction: Literal["Right", "Left", "right", "left"] | None = None

    add_special_tokens: Any = refused(
        "texts have special tokens; token ids are taken as they are", True
    )
    cache_salt: Any = refused("nothing is cached")
    max_length: Any = refused("inputs are cut to what the model takes")
    mm_processor_kwargs: Any = refused("inputs are texts", {})
    priority: Any = refused("all requests wait in one queue", 0)
    request_id: Any = refused("the header x-request-id has it")
    truncate_prompt_tokens: Any = refused(
        "inputs are cut to what the model takes; -1 says the same", -1
    )
    truncation: Any = refused(_CALLED.format("truncate"))
    truncation_side: Literal["right", "left"] | None = None
    user: str | None = no_effect("users are not told apart")

    def cut(self) -> Parameters:
        """Raises ValidationError: fields that contradict each other."""
        sides = {s.lower() for s in (self.truncation_direction, self.truncation_side) if s}
        if len(sides) > 1:
            raise ValidationError(
                "`truncation_side` is another one than `truncation_direction`",
                param="truncation_side",
            )
        truncate = self.truncate
        if self.truncate_prompt_tokens is not None and truncate is None:
            truncate = True
        name = getattr(self, "prompt_name", None)
        return cut(truncate, next(iter(sides), None), name)


class EmbeddingsBody(OtherServers):
    """POST /v1/embeddings."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: bool = True
    prompt_name: str | None = None

    add_generation_prompt: Any = refused(_CHAT)
    chat_template: Any = refused(_CHAT)
    chat_template_kwargs: Any = refused(_CHAT)
    continue_final_message: Any = refused(_CHAT)
    messages: Any = refused(_CHAT)

    embed_dtype: Any = refused(_FLOATS, "float32")
    embedding_type: Any = refused("see encoding_format", "float")
    embedding_types: Any = refused("see encoding_format", ["float"])
    endianness: Any = refused("bytes are little-endian", "little", "native")
    input_type: Any = refused(_TASK)
    instruction: Any = refused(_TASK)
    late_chunking: Any = refused("each input has one vector", False)
    modality: Any = refused("inputs are texts", "text")
    normalized: Any = refused(_CALLED.format("normalize"), True)
    output_dimension: Any = refused(_CALLED.format("dimensions"))
    output_dtype: Any = refused(_FLOATS, "float")
    pooling: Any = refused("a model pools as it was trained to; the setting pooling changes it")
    prompt: Any = refused(_TASK)
    return_multivector: Any = refused("see /embed_all", False)
    task: Any = refused(_TASK)
    task_type: Any = refused(_TASK)
    use_activation: Any = refused(_CALLED.format("normalize"), True)
