"""The tools that an answer may call, and the constraint that forces a call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.constraints import Constraint, json_schema, schema_of
from atoll_client.gateway.chat_formats.subschemas import moved

# OpenAI: a function that says nothing of parameters has none.
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


# A name that is written in a JSON pointer as it is, and is no number.
_PLAIN = re.compile(r"[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*")
_PLACE = re.compile(r"#/\$defs/([A-Za-z0-9_-]+)(/[^\s:]*)?")


def in_tool(message: str, fields: Mapping[str, str]) -> tuple[str, str | None]:
    """What is said of a schema of ``ToolChoice.constraint``, and the field that it is said of.

    fields: of the request, with the parameters of tools, by the tools' names.
    """
    found = _PLACE.search(message)
    field = None if found is None else fields.get(found[1])
    if found is None or field is None:
        return message, None
    return message.replace(found[0], f"`{field}` #{found[2] or ''}", 1), field


@dataclass(frozen=True)
class ToolChoice:
    """The tools that may be called, and whether one has to be called.

    functions: OpenAI's ``function`` objects by name.
    """

    functions: Mapping[str, Mapping[str, Any]]
    is_forced: bool

    def only(self, names: Sequence[str], is_forced: bool, field: str = "tool_choice") -> ToolChoice:
        """The choice of some of the tools. field: the one that names them.

        Raises:
            ValidationError: there is no such tool.
        """
        for name in names:
            if name not in self.functions:
                known = list(self.functions)
                raise ValidationError.of(field, f"names {name!r}; the tools are {known}")
        return ToolChoice({name: self.functions[name] for name in names}, is_forced)

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
            # Errors name it.
            key = name if _PLAIN.fullmatch(name) else str(index)
            place = f"#/$defs/{key}"
            parameters = function.get("parameters") or _NO_PARAMETERS
            definitions[key] = moved(parameters, place)
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
