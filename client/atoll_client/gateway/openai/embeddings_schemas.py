"""What OpenAI's embeddings route is sent, with what other servers and TEI add to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.encoders import Parameters, truncation
from atoll_client.gateway.core.fields import NoEffect, Refused
from atoll_client.gateway.core.schemas import Inputs, Strict

# NVIDIA NIM's words for what is cut off, and what they mean elsewhere.
NimCut = Literal["NONE", "START", "END"]
_SIDES = {"START": "left", "END": "right"}

_TASK = Refused("prompts are named by prompt_name")
_CHAT = Refused("chats are not embedded")
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

    add_special_tokens: Annotated[
        Any, Refused("texts have special tokens; token ids are taken as they are", (True,))
    ] = None
    cache_salt: Annotated[Any, Refused("nothing is cached")] = None
    max_length: Annotated[Any, Refused("inputs are cut to what the model takes")] = None
    mm_processor_kwargs: Annotated[Any, Refused("inputs are texts", ({},))] = None
    priority: Annotated[Any, Refused("all requests wait in one queue", (0,))] = None
    request_id: Annotated[Any, Refused("the header x-request-id has it")] = None
    truncate_prompt_tokens: Annotated[
        Any, Refused("inputs are cut to what the model takes; -1 says the same", (-1,))
    ] = None
    truncation: Annotated[Any, Refused(_CALLED.format("truncate"))] = None
    truncation_side: Literal["right", "left"] | None = None
    user: Annotated[str | None, NoEffect("users are not told apart")] = None

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

    add_generation_prompt: Annotated[Any, _CHAT] = None
    chat_template: Annotated[Any, _CHAT] = None
    chat_template_kwargs: Annotated[Any, _CHAT] = None
    continue_final_message: Annotated[Any, _CHAT] = None
    messages: Annotated[Any, _CHAT] = None

    embed_dtype: Annotated[Any, Refused(_FLOATS, ("float32",))] = None
    embedding_type: Annotated[Any, Refused("see encoding_format", ("float",))] = None
    embedding_types: Annotated[Any, Refused("see encoding_format", (["float"],))] = None
    endianness: Annotated[Any, Refused("bytes are little-endian", ("little", "native"))] = None
    input_type: Annotated[Any, _TASK] = None
    instruction: Annotated[Any, _TASK] = None
    late_chunking: Annotated[Any, Refused("each input has one vector", (False,))] = None
    modality: Annotated[Any, Refused("inputs are texts", ("text",))] = None
    normalized: Annotated[Any, Refused(_CALLED.format("normalize"), (True,))] = None
    output_dimension: Annotated[Any, Refused(_CALLED.format("dimensions"))] = None
    output_dtype: Annotated[Any, Refused(_FLOATS, ("float",))] = None
    pooling: Annotated[
        Any, Refused("a model pools as it was trained to; the setting pooling changes it")
    ] = None
    prompt: Annotated[Any, _TASK] = None
    return_multivector: Annotated[Any, Refused("see /embed_all", (False,))] = None
    task: Annotated[Any, _TASK] = None
    task_type: Annotated[Any, _TASK] = None
    use_activation: Annotated[Any, Refused(_CALLED.format("normalize"), (True,))] = None
