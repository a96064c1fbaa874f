"""Tool calls: how a model is made to write them, and how they are found in what it wrote.

Models write calls as JSON objects with a name and arguments, bare or between ``<tool_call>`` tags
(Hermes, Qwen, SmolLM), one or several, or as a list.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.openai_messages import Choice, Tool

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_TAG = "<tool_call>"
_OPENINGS = (_TAG, "{", "[")


@dataclass(frozen=True)
class ToolChoice:
    """Which tools may be called, and whether one has to be.

    functions: OpenAI's ``function`` objects, by name.
    """

    functions: dict[str, dict[str, Any]]
    is_forced: bool

    @classmethod
    def read(cls, tools: Sequence[Tool], choice: str | Choice | None) -> ToolChoice | None:
        """None: no tools are in play.

        Raises:
            ValidationError: two tools of a name, or a choice that is no tool.
        """
        functions = {tool.function.name: tool.function.given() for tool in tools}
        if len(functions) < len(tools):
            names = [tool.function.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValidationError(f"`tools` has {twice!r} more than once", param="tools")
        if choice == "none" or (choice in (None, "auto") and not tools):
            return None
        if choice in (None, "auto"):
            return cls(functions, False)
        if not tools:
            raise ValidationError("`tool_choice` is set, but `tools` is empty", param="tool_choice")
        if choice == "required":
            return cls(functions, True)
        if not isinstance(choice, Choice):
            return cls(_named(functions, [choice]), True)
        if (choice.function is None) != (choice.type == "allowed_tools") or (
            choice.allowed_tools is None
        ) != (choice.type == "function"):
            raise ValidationError(
                f"`tool_choice.type` is {choice.type!r}; expected `tool_choice.{choice.type}` and "
                "no other",
                param=f"tool_choice.{choice.type}",
            )
        if choice.allowed_tools is not None:
            names = [tool.function.name for tool in choice.allowed_tools.tools]
            return cls(_named(functions, names), choice.allowed_tools.mode == "required")
        assert choice.function is not None
        return cls(_named(functions, [choice.function.name]), True)

    def schema(self) -> dict[str, Any]:
        """What a forced call has to look like; references inside parameters still lead there."""
        calls, parameters = [], {}
        for index, (name, function) in enumerate(self.functions.items()):
            place = f"#/$defs/{index}"
            parameters[str(index)] = _moved(function.get("parameters") or {"type": "object"}, place)
            call = {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": place}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            calls.append(call)
        found = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return {"$defs": parameters, **found}

    def calls(self, text: str) -> list[dict[str, Any]]:
        """The calls in a text, as OpenAI writes them; empty if it is an ordinary answer."""
        tagged = _TAGGED.findall(text)
        found = []
        for part in tagged or [text.strip()]:
            found += self._parsed(part)
        return found

    def may_begin(self, text: str) -> bool:
        """Whether a text that goes on may turn out to be a call."""
        start = text.lstrip()
        return not start or any(
            start.startswith(opening) or opening.startswith(start) for opening in _OPENINGS
        )

    @staticmethod
    def before(text: str, is_whole: bool) -> str:
        """What is certain to stand before a tagged call, if there is one; all of it if not.

        is_whole: whether nothing follows; otherwise the end of the text may begin a tag.
        """
        at = text.find(_TAG)
        if at >= 0:
            return text[:at]
        ends = range(1, min(len(_TAG), len(text) + 1))
        held = 0 if is_whole else max((n for n in ends if _TAG.startswith(text[-n:])), default=0)
        return text[: len(text) - held]

    def _parsed(self, text: str) -> list[dict[str, Any]]:
        try:
            value = json.loads(text)
        except ValueError:
            return []
        values = value if isinstance(value, list) else [value]
        return [call for one in values if (call := self._call(one)) is not None]

    def _call(self, value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict) or value.get("name") not in self.functions:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": value["name"], "arguments": text},
        }


def _named(functions: dict[str, dict[str, Any]], names: Sequence[Any]) -> dict[str, dict[str, Any]]:
    for name in names:
        if name not in functions:
            raise ValidationError(
                f"`tool_choice` names {name!r}; the tools are {list(functions)}",
                param="tool_choice",
            )  # fmt: skip
    return {name: functions[name] for name in names}


def _moved(schema: Any, place: str) -> Any:
    """A schema as part of another one: its references count from its own root."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: place + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for name, value in schema.items()
    }


def with_objects(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose earlier calls have their arguments as objects: templates print those."""
    return [
        {**m, "tool_calls": [_with_object(call) for call in m["tool_calls"]]}
        if isinstance(m.get("tool_calls"), list)
        else m
        for m in messages
    ]


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except ValueError:
        return call
