"""The body of OpenAI's embeddings route, with the fields that TEI and other servers add."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.embed_parts import ContentPart, ImageUri, Part, only_part
from atoll_client.gateway.core.encoders import Direction, Parameters, truncation
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Inputs, Priority, Strict

# NVIDIA NIM's names of the end where inputs are cut off.
NimCut = Literal["NONE", "START", "END"]
_SIDES = {"START": "left", "END": "right"}

_TASK = "prompts are selected by prompt_name"
_CHAT = "chats are not embedded"
_CALLED = "it is called {} here"
_FLOATS = "vectors are float32"
# What only changes how texts are cut.
_CUTS = ("truncate", "truncate_prompt_tokens", "truncation_direction", "truncation_side")


def cut(
    truncate: bool | NimCut | None, direction: str | None, prompt_name: str | None = None
) -> Parameters:
    """The models' parameters of truncation and of the prompt.

    Raises:
        ValidationError: ``truncate`` and ``direction`` name different sides.
    """
    if truncate is None or isinstance(truncate, bool):
        return truncation(truncate, direction, prompt_name)
    side = _SIDES.get(truncate)
    if side is not None and direction is not None and direction.lower() != side:
        raise ValidationError.of("truncate", f"is {truncate!r} and the direction {direction!r}")
    return truncation(truncate != "NONE", side or direction, prompt_name)


class OtherServers(Strict):
    """How inputs are truncated, and fields that all of vLLM's routes for encoders have."""

    priority: Priority | None = None
    truncate: bool | NimCut | None = None
    truncation_direction: Direction | None = None

    add_special_tokens: Any = refused(
        "special tokens are added to texts, but not to token ids", True
    )
    cache_salt: Any = refused("nothing is cached")
    max_length: Any = refused("inputs are truncated to the model's limit")
    mm_processor_kwargs: Any = refused("inputs are texts", {})
    request_id: Any = refused("it is in the header x-request-id")
    truncate_prompt_tokens: Any = refused(
        "inputs are truncated to the model's limit, as with -1", -1
    )
    truncation: Any = refused(_CALLED.format("truncate"))
    truncation_side: Literal["right", "left"] | None = None
    user: str | None = no_effect("requests of all users are treated alike")

    def cut(self) -> Parameters:
        """The models' parameters of truncation and of the prompt.

        Raises:
            ValidationError: fields contradict each other.
        """
        sides = {s.lower() for s in (self.truncation_direction, self.truncation_side) if s}
        if len(sides) > 1:
            raise ValidationError.of(
                "truncation_side", "is another one than `truncation_direction`"
            )
        truncate = self.truncate
        if self.truncate_prompt_tokens is not None and truncate is None:
            truncate = True
        name = getattr(self, "prompt_name", None)
        return cut(truncate, next(iter(sides), None), name)


class EmbeddingMessage(Strict):
    """The only message: a text or an image."""

    role: Literal["user"] = "user"
    content: str | list[ContentPart]


class EmbeddingsBody(OtherServers):
    """POST /v1/embeddings. Images are those of models that take some, as data URIs."""

    input: Inputs | None = Field(None, description="texts, token ids, or images with `modality`")
    modality: Literal["text", "image"] | None = Field(
        None, description="what `input` holds, as infinity names it"
    )
    messages: list[EmbeddingMessage] | None = Field(
        None, description="in place of `input`, one message with a text or an image, as for vLLM"
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: bool = True
    prompt_name: str | None = None

    add_generation_prompt: Any = refused(_CHAT)
    chat_template: Any = refused(_CHAT)
    chat_template_kwargs: Any = refused(_CHAT)
    continue_final_message: Any = refused(_CHAT)

    embed_dtype: Any = refused(_FLOATS, "float32")
    embedding_type: Any = refused("see encoding_format", "float")
    embedding_types: Any = refused("see encoding_format", ["float"])
    endianness: Any = refused("bytes are little-endian", "little", "native")
    input_type: Any = refused(_TASK)
    instruction: Any = refused(_TASK)
    late_chunking: Any = refused("each input has one vector", False)
    normalized: Any = refused(_CALLED.format("normalize"), True)
    output_dimension: Any = refused(_CALLED.format("dimensions"))
    output_dtype: Any = refused(_FLOATS, "float")
    pooling: Any = refused(
        "a model uses the pooling it was trained with; the setting pooling changes it"
    )
    prompt: Any = refused(_TASK)
    return_multivector: Any = refused("see /embed_all", False)
    task: Any = refused(_TASK)
    task_type: Any = refused(_TASK)
    use_activation: Any = refused(_CALLED.format("normalize"), True)

    def check_images_alone(self) -> None:
        """Raises ValidationError: inputs are to be cut, and all of them are images."""
        for name in _CUTS:
            if getattr(self, name) not in (None, False, "NONE"):
                raise ValidationError.of(name, "is for texts, and there are images alone")

    def texts(self) -> Inputs:
        """``input``, after ``parts`` has found that it is there."""
        assert self.input is not None, "parts() comes first"
        return self.input

    def parts(self) -> list[Part] | None:
        """Texts and images of a request that may have images; None: `input` holds texts.

        Raises:
            ValidationError: neither `input` nor `messages`, or both, or what has no one vector.
        """
        if self.messages is not None:
            if self.input is not None:
                raise ValidationError.of("messages", "is given, and so is `input`")
            if self.modality is not None:
                raise ValidationError.of(
                    "modality", f"is {self.modality!r}, which is said of `input`; a part of "
                    "`messages` has a type",
                )  # fmt: skip
            if len(self.messages) != 1:
                raise ValidationError.of(
                    "messages", f"has {len(self.messages)} messages; chats are not embedded, only "
                    "one message with a text or an image",
                )  # fmt: skip
            return [only_part(self.messages[0].content, "messages")]
        if self.input is None:
            raise ValidationError(
                "`input`: Field required", param="input", code="missing_required_parameter"
            )
        if self.modality != "image":
            return None
        uris = [self.input] if isinstance(self.input, str) else self.input
        if not uris:
            raise EmptyInputError("`input` cannot be empty", param="input")
        if not all(isinstance(uri, str) for uri in uris):
            raise ValidationError.of("input", "has token ids; expected data URIs of images")
        return [ImageUri(str(uri)) for uri in uris]
