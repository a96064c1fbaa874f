"""The items of a request's ``input``: messages, calls of tools and their results, reasoning.

One class for all types: the fields of each are in ``_FIELDS``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.responses.kinds import HOSTED_ITEMS, OTHER_CONTENTS

_TEXT_ONLY = "the models here read text"
_AS_IT_IS = "items are taken as they are"
_CALLER = "calls are the model's own"

ItemType = Literal[
    "custom_tool_call", "custom_tool_call_output", "function_call", "function_call_output",
    "item_reference", "message", "reasoning",
]  # fmt: skip
ContentType = Literal[
    "input_text", "output_text", "reasoning_text", "refusal", "summary_text", "text"
]


class Content(Strict):
    """A part of an item's ``content``, ``output`` or ``summary``."""

    type: Annotated[ContentType, OTHER_CONTENTS]
    text: str | None = None
    refusal: str | None = None
    annotations: Any = no_effect("they are not part of the text")
    logprobs: Any = no_effect("they are not part of the text")
    parsed: Any = no_effect("it is the text again")
    prompt_cache_breakpoint: dict[str, Any] | None = no_effect("prompts are cached automatically")
    detail: Any = refused(_TEXT_ONLY)
    file_data: Any = refused(_TEXT_ONLY)
    file_id: Any = refused(_TEXT_ONLY)
    file_url: Any = refused(_TEXT_ONLY)
    filename: Any = refused(_TEXT_ONLY)
    image_url: Any = refused(_TEXT_ONLY)
    input_audio: Any = refused(_TEXT_ONLY)

    def written(self) -> str:
        """Its text."""
        found = self.refusal if self.type == "refusal" else self.text
        assert found is not None, "it was checked"
        return found


class Item(Strict):
    """One of ``input``. Without a type, it is a message if it has a role, else a reference."""

    type: Annotated[ItemType | None, HOSTED_ITEMS] = None
    id: str | None = None
    role: Literal["assistant", "developer", "system", "user"] | None = None
    content: str | list[Content] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    parsed_arguments: Any = no_effect("they are the arguments again")
    input: str | None = None
    output: str | list[Content] | None = None
    summary: list[Content] | None = None
    encrypted_content: str | None = None
    status: str | None = no_effect(_AS_IT_IS)
    phase: str | None = no_effect("chat templates have no phases")
    created_by: str | None = no_effect(_AS_IT_IS)
    caller: Any = refused(_CALLER, {"type": "direct"})
    namespace: str | None = None
    async_: Any = refused("results follow their calls", False, alias="async")

    @property
    def kind(self) -> str:
        """Its type, also if it has none."""
        return self.type or ("item_reference" if self.role is None else "message")


# By type: the fields that an item must have, and those that it may have. All may have ``_ALWAYS``.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "message": (("role", "content"), ("phase",)),
    "function_call": (
        ("call_id", "name", "arguments"),
        ("namespace", "caller", "async_", "parsed_arguments"),
    ),
    "function_call_output": (("call_id", "output"), ("caller", "name", "namespace")),
    "custom_tool_call": (("call_id", "name", "input"), ("namespace", "caller", "async_")),
    "custom_tool_call_output": (("call_id", "output"), ("caller",)),
    "reasoning": ((), ("summary", "content", "encrypted_content")),
    "item_reference": (("id",), ()),
}
_ALWAYS = frozenset({"type", "id", "status", "created_by"})
# The types of contents by the type of their item, and for messages of the model.
_CONTENTS: dict[str, tuple[str, ...]] = {
    "reasoning": ("reasoning_text", "summary_text", "text"),
    "assistant": ("output_text", "refusal", "input_text", "text"),
}
_INPUT_CONTENTS = ("input_text", "output_text", "text")


def check_items(items: list[Item]) -> None:
    """Raises ValidationError: an item lacks a field of its type, or has one of another."""
    for index, item in enumerate(items):
        name = f"input[{index}]"
        needed, allowed = _FIELDS[item.kind]
        for field in needed:
            if getattr(item, field) is None:
                raise _missing(f"{name}.{field}")
        own = {*needed, *allowed, *_ALWAYS}
        for field in type(item).model_fields:
            if field not in own and getattr(item, field) is not None:
                shown = field.rstrip("_")
                raise ValidationError.of(
                    f"{name}.{shown}", f"is set, but `{name}.type` is {item.kind!r}",
                    code="unknown_parameter",
                )  # fmt: skip
        _check_contents(name, item)


def _check_contents(name: str, item: Item) -> None:
    kinds = _CONTENTS.get(item.kind) or _CONTENTS.get(item.role or "", _INPUT_CONTENTS)
    for field in ("content", "output", "summary"):
        parts = getattr(item, field)
        for place, part in enumerate(parts if isinstance(parts, list) else ()):
            at = f"{name}.{field}[{place}]"
            if part.type not in kinds:
                expected = " or ".join(map(repr, kinds))
                raise ValidationError.of(f"{at}.type", f"is {part.type!r}; expected {expected}")
            text = "refusal" if part.type == "refusal" else "text"
            if getattr(part, text) is None:
                raise _missing(f"{at}.{text}")


def _missing(name: str) -> ValidationError:
    return ValidationError(
        f"`{name}`: Field required", param=name, code="missing_required_parameter"
    )
