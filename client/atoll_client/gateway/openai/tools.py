"""The choice of tools: which may be called, and the constraint that forces a call.

``chat_formats`` finds the calls in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.openai.constraints import Constraint, json_schema, schema_of
from atoll_client.gateway.openai.messages import Choice, Tool
from atoll_client.gateway.openai.subschemas import moved


@dataclass(frozen=True)
class ToolChoice:
    """The tools that may be called, and whether one has to be called.

    functions: OpenAI's ``function`` objects by name.
    """

    functions: dict[str, dict[str, Any]]
    is_forced: bool

    @classmethod
    def read(cls, tools: Sequence[Tool], choice: str | Choice | None) -> ToolChoice | None:
        """The choice of a request; None: no tools may be called.

        Raises:
            ValidationError: two tools have the same name, or the choice is not one of them.
        """
        functions = {tool.function.name: tool.function.given() for tool in tools}
        if len(functions) < len(tools):
            names = [tool.function.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValidationError.of("tools", f"has {twice!r} more than once")
        if choice == "none" or (choice in (None, "auto") and not tools):
            return None
        if choice in (None, "auto"):
            return cls(functions, False)
        if not tools:
            raise ValidationError.of("tool_choice", "is set, but `tools` is empty")
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

    def constraint(self, bound: Constraint | None) -> Constraint | None:
        """The constraint of an answer: a call, or either a call or what ``bound`` allows.

        Raises:
            ValidationError: ``bound`` is not a JSON schema, so it cannot be combined with calls.
        """
        if self.is_forced:
            return json_schema(self._schema(None))
        return None if bound is None else json_schema(self._schema(schema_of(bound)))

    def _schema(self, other: Any) -> dict[str, Any]:
        """The schema of a call, or of a call or ``other``, with references adapted."""
        kinds, definitions = [], {}
        for index, (name, function) in enumerate(self.functions.items()):
            place = f"#/$defs/{index}"
            parameters = function.get("parameters") or {"type": "object"}
            definitions[str(index)] = moved(parameters, place)
            call = {
                "type": "object",
                # Arguments are an object even if the parameters do not say so.
                "properties": {
                    "name": {"const": name}, "arguments": {"type": "object", "$ref": place},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }  # fmt: skip
            kinds.append(call)
        if other is not None:
            place = f"#/$defs/{len(kinds)}"
            definitions[str(len(kinds))] = moved(other, place)
            kinds.append({"$ref": place})
        found = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return {"$defs": definitions, **found}


def _named(functions: dict[str, dict[str, Any]], names: Sequence[Any]) -> dict[str, dict[str, Any]]:
    for name in names:
        if name not in functions:
            raise ValidationError.of(
                "tool_choice", f"names {name!r}; the tools are {list(functions)}"
            )
    return {name: functions[name] for name in names}
