"""Where a model's reasoning begins and ends: by two texts, such as ``<think>`` and ``</think>``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import ValidationError

_TEXTS = ("opening", "closing", "bridge")


@dataclass(frozen=True)
class ReasoningMarks:
    """The option ``reasoning`` of a request.

    opening, closing: the texts around the reasoning, with which an answer may begin.
    bridge: the text between the reasoning and the answer, of models that always begin with
        reasoning and write the answer as a message of its own.
    begins_inside: an answer begins inside its reasoning, without ``opening``, unless the prompt
        has closed it.
    """

    opening: str
    closing: str
    bridge: str | None = None
    begins_inside: bool = False

    @classmethod
    def read(cls, value: Any) -> ReasoningMarks | None:
        """Raises ValidationError: it is not an object of these fields; names the field."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValidationError(f"reasoning is {value!r}; expected an object")
        unknown = value.keys() - {*_TEXTS, "begins_inside"}
        if unknown:
            raise ValidationError(
                f"reasoning.{min(unknown)} is unknown; known: {', '.join(_TEXTS)}, begins_inside"
            )
        for name in _TEXTS:
            is_missing = value.get(name) is None and name == "bridge"
            if not is_missing and not (isinstance(value.get(name), str) and value[name]):
                raise ValidationError(f"reasoning.{name} is {value.get(name)!r}; expected text")
        is_inside = value.get("begins_inside", False)
        if not isinstance(is_inside, bool):
            raise ValidationError(
                f"reasoning.begins_inside is {is_inside!r}; expected true or false"
            )
        return cls(value["opening"], value["closing"], value.get("bridge"), is_inside)

    def state(self, prompt: str, continued: Mapping[str, Any] | None = None) -> str:
        """Whether the prompt has left reasoning "open", has "closed" it, or neither, "".

        continued: the message that the answer continues, if it does.
        """
        if continued is not None:
            text = continued.get("content")
            if isinstance(text, list):
                text = "".join(part["text"] for part in text)
            said = str(text or "")
            return "open" if said.rfind(self.opening) > said.rfind(self.closing) else "closed"
        end = prompt.rstrip()
        if end.endswith(self.opening.rstrip()):
            return "open"
        return "closed" if end.endswith(self.closing.rstrip()) else ""
